"""A real agent and real containers: what it is told of them by their runtime, and what their policies do.

    with open_container_stage("cri", cri.socket) as (stage, door):
        stage.write("coder", policy_for(stage, "pods: {namespace: ml}"))
        stage.start()
        reach(main, "a.shop.test")        # curl inside the container: what came back, or curl's number
        knock(main, stage.shop)           # a plain connection: the host that answered, or the error

The agent asks the runtime through a Door, which a test can shut: then nobody answers. It believes SIGNER's sessions.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from bed import Finished, Host, Udp
from bed.container_wire import connect
from bed.docker import Container, Docker, docker_daemon, missing_docker
from bed.frames import frame_to
from bed.podman import missing_podman, podman_daemon
from e2e.agent_stage import NO_RUNTIMES, AgentStage, open_agent_stage
from unit.session_words import Orchestrator, write_keys

IMAGE = "ghcr.io/acme/agent:1.0"
OTHER = "ghcr.io/acme/other:1.0"
SO_S = 30.0  # for what is waited for: an agent that asked in vain asks again after some seconds, each look is a program
SIGNER = Orchestrator()  # of sessions
Starting = Callable[[], AbstractContextManager[Docker]]
DAEMONS: Mapping[str, tuple[Callable[[], str | None], Starting]] = {
    "docker": (missing_docker, docker_daemon),
    "podman": (missing_podman, podman_daemon),
}
# What the host said first, or the error's name.
TALK = """
import errno, socket, sys
address, port, protocol = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
try:
    with socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect((address, int(port)))
        sock.sendall(b"x")
        print(sock.makefile().readline() if protocol == "tcp" else sock.recv(99).decode())
except OSError as error:
    print(errno.errorcode.get(error.errno or 0, repr(error)))
"""
# "sent", or the error's name.
SEND_FRAME = """
import errno, socket, sys
try:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(bytes.fromhex(sys.argv[1]))
        print("sent")
except OSError as error:
    print(errno.errorcode.get(error.errno or 0, repr(error)))
"""
SOMEBODY = "203.0.113.253"  # whom a container asks about names; nobody is there: the gate answers
RESOLV_CONF = f"nameserver {SOMEBODY}\noptions timeout:2 attempts:1\n"
_CURL_REFUSED = (6, 7, 35, 56)  # no name, no connection, no handshake, no answer


class Inhabited(Protocol):
    """A container of either bed."""

    @property
    def pid(self) -> int:
        """Its first process."""

    def exec(self, *argv: str, timeout: float = ...) -> Finished:
        """Runs a command inside."""


class Door:
    """A socket that leads to a runtime's, as long as it is open."""

    def __init__(self, path: Path, runtime: Path) -> None:
        self.path = path
        self._runtime = runtime
        self._is_open = threading.Event()
        self._is_open.set()
        self._is_ending = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def shut(self) -> None:
        """From now on nobody answers; conversations end."""
        self._is_open.clear()
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):  # it has gone
                    end.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Again; who has waited is let in."""
        self._is_open.set()

    def close(self) -> None:
        """For good."""
        self._is_ending = True
        self.shut()
        self._is_open.set()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._lead, args=(caller,), daemon=True).start()

    def _lead(self, caller: socket.socket) -> None:
        self._is_open.wait()
        runtime = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            runtime.connect(str(self._runtime))
        except OSError:
            caller.close()
            return
        self._pairs.append((caller, runtime))
        back = threading.Thread(target=_carry, args=(runtime, caller), daemon=True)
        back.start()
        _carry(caller, runtime)
        back.join()
        caller.close()
        runtime.close()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # where one end has gone, the other goes
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def docker_with(images: Mapping[str, Mapping[str, str]], kind: str = "docker") -> Iterator[Docker]:
    """A daemon with these images and their labels, or a skip. Podman's has the same words."""
    missing, daemon = DAEMONS[kind]
    if why := missing() or has_tools():
        pytest.skip(why)
    with daemon() as docker:
        for name, labels in images.items():
            docker.image(name, labels)
        yield docker


@contextlib.contextmanager
def open_container_stage(kind: str, runtime: Path) -> Iterator[tuple[AgentStage, Door]]:
    """The stage of an agent that knows this runtime and no other, and the door to it. No agent runs yet.

    `kind`: docker, podman or cri. Both hosts answer over UDP, too, on the plain port.
    """
    with open_agent_stage() as stage:
        for host in (stage.shop, stage.evil):
            stage.bed.hosts.serve(host, Udp(7))
        keys = stage.directory / "sessions.pub"
        write_keys(keys, SIGNER)
        door = Door(stage.directory / "runtime.sock", runtime)
        path = str(door.path)
        sockets = {"docker": "off", "podman": "off", "cri": "off"} | {kind: [path] if kind == "cri" else path}
        settings = stage.directory / "exeat.yaml"
        text = settings.read_text().replace(NO_RUNTIMES, json.dumps(sockets))
        settings.write_text(f"{text}  sessions: {{keys: {keys}}}\n")
        try:
            yield stage, door
        finally:
            door.close()


def fresh(stage: AgentStage) -> AgentStage:
    """With no packet counted yet, and an agent, though a test before failed without one."""
    if stage.process is None:
        stage.start()
    stage.shop.reset()
    stage.evil.reset()
    return stage


def started(
    docker: Docker, stage: AgentStage, name: str, image: str = IMAGE, *options: str, **labels: str
) -> Container:
    """A container with a way to the hosts."""
    container = docker.run(image, name=name, labels=labels, tools=True, options=options)
    connect(stage.bed, container.pid)
    furnish(container)
    return container


def policy_for(stage: AgentStage, subject: str, *names: str, name: str = "coder", more: str = "") -> str:
    """Names and plain ports of the shop, for this subject (the inside of a YAML mapping)."""
    plain = stage.rules(stage.shop)
    rules = plain + plain.replace("shop-7", "shop-7-udp").replace("protocol: tcp", "protocol: udp")
    text = stage.policy(name, rules + stage.names(*(names or ("a.shop.test",))), more=more)
    old = f'subject: {{cgroups: ["{stage.subject}"]}}'
    assert old in text
    return text.replace(old, f"subject: {{{subject}}}")


def furnish(container: Inhabited) -> None:
    """Has it ask for names somewhere outside, as containers do."""
    root = Path(f"/proc/{container.pid}/root")
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/resolv.conf").write_text(RESOLV_CONF)


def reach(container: Inhabited, name: str) -> str:
    """`curl` inside of it: the host that answered, or curl's number of why none did."""
    done = container.exec(
        "curl", "--silent", "--insecure", "--max-time", "8", "--noproxy", "*", f"https://{name}/", timeout=30
    )
    assert done.returncode in (0, *_CURL_REFUSED), done
    return done.stdout.strip().removeprefix("I am ") if done.returncode == 0 else f"curl {done.returncode}"


def framed(container: Inhabited, host: Host) -> str:
    """A datagram to the plain port of a host, as a frame: "sent", or the error."""
    frame = frame_to(host.address4, port=7, to="ff:ff:ff:ff:ff:ff")
    return container.exec("python3", "-c", SEND_FRAME, frame.hex()).stdout.strip()


def knock(container: Inhabited, host: Host, port: int = 7, *, protocol: str = "tcp", address: str = "") -> str:
    """From inside: the host that answered, by its own word, or the error. `address`: another than its IPv4 address."""
    done = container.exec("python3", "-c", TALK, address or host.address4, str(port), protocol, timeout=30)
    assert done.returncode == 0, done
    return done.stdout.strip().removeprefix("I am ")


def knock_from(cgroup: Path, pid: int, host: Host, user: int = 0) -> str:
    """The same from any cgroup, in the network namespace of this process."""
    enter = 'echo $$ >"$1"; shift; exec "$@"'
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "setpriv", f"--reuid={user}"]
    line = ["sh", "-ec", enter, "sh", cgroup / "cgroup.procs", *inside, sys.executable, "-c", TALK]
    done = subprocess.run([*line, host.address4, "7", "tcp"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout.strip().removeprefix("I am ")


def views(stage: AgentStage) -> dict[str, dict[str, Any]]:
    """The workloads by name."""
    return {one["name"]: one for one in stage.json("workloads").get("workloads", ())}


def verdicts_of(stage: AgentStage, verdict: str = "DROPPED", **who: str) -> list[dict[str, Any]]:
    """Those about workloads of which these names are told."""
    lines = stage.exeat("verdicts", "--since", "10m", "--verdict", verdict, "-o", "json").stdout.splitlines()
    return [one for one in map(json.loads, lines) if who.items() <= (one["who"] or {}).items()]


def session_file(stage: AgentStage, subject: str, **changed: Any) -> str:
    """A token for alice, in a file."""
    path = stage.directory / f"token-{time.monotonic_ns()}"
    path.write_text(SIGNER.token(sub=subject, **changed))
    return str(path)


def soon(is_so: Callable[[], Any], within_s: float = SO_S) -> None:
    """Waits for it. A look that starts programs shall not keep a core busy."""
    asked = time.monotonic()
    deadline = asked + within_s
    while not is_so():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(max(0.02, min(2 * (time.monotonic() - asked), 0.5)))
        asked = time.monotonic()


def has_tools() -> str | None:
    """Why no container of these tests can do anything; None: they can."""
    missing = [tool for tool in ("curl", "python3") if shutil.which(tool) is None]
    return f"these tests need {', '.join(missing)}" if missing else None
