"""A real agent and real containers: what it is told of them by their runtime, and what their policies do.

    with open_container_stage(cri=cri.socket) as stage:
        stage.write("coder", policy_for(stage, "pods: {namespace: ml}"))
        stage.start()
        reach(main, "a.shop.test")        # curl inside the container: what came back, or curl's number

The agent asks the runtime through a Door, which a test can shut: then nobody answers.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from bed import Finished, Host
from e2e.agent_stage import NO_RUNTIMES, AgentStage, open_agent_stage

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
def open_container_stage(*, docker: Path | None = None, cri: Path | None = None) -> Iterator[tuple[AgentStage, Door]]:
    """The stage of an agent that knows this runtime and no other, and the door to it. No agent runs yet."""
    with open_agent_stage() as stage:
        runtime = docker or cri
        assert runtime
        door = Door(stage.directory / "runtime.sock", runtime)
        sockets = {
            "docker": str(door.path) if docker else "off",
            "podman": "off",
            "cri": [str(door.path)] if cri else "off",
        }
        settings = stage.directory / "exeat.yaml"
        settings.write_text(settings.read_text().replace(NO_RUNTIMES, json.dumps(sockets)))
        try:
            yield stage, door
        finally:
            door.close()


def policy_for(stage: AgentStage, subject: str, *names: str, name: str = "coder", more: str = "") -> str:
    """Names and plain ports of the shop, for this subject (the inside of a YAML mapping)."""
    text = stage.policy(name, stage.rules(stage.shop) + stage.names(*(names or ("a.shop.test",))), more=more)
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


def knock(container: Inhabited, host: Host, port: int = 7) -> str:
    """A plain connection from inside: what the host said first, or the error."""
    script = (
        "import errno, socket, sys\n"
        "try:\n"
        f"    s = socket.create_connection(({host.address4!r}, {port}), 5)\n"
        "    s.sendall(b'x')\n"
        "    print(s.makefile().readline())\n"
        "except OSError as e:\n"
        "    print(errno.errorcode.get(e.errno or 0, repr(e)))\n"
    )
    done = container.exec("python3", "-c", script, timeout=30)
    assert done.returncode == 0, done
    return done.stdout.strip().removeprefix("I am ")


def views(stage: AgentStage) -> dict[str, dict[str, Any]]:
    """The workloads by name."""
    return {one["name"]: one for one in stage.json("workloads").get("workloads", ())}


def denials_of(stage: AgentStage, **who: str) -> list[dict[str, Any]]:
    """Verdicts against workloads of which these names are told."""
    lines = stage.exeat("verdicts", "--since", "10m", "--verdict", "DROPPED", "-o", "json").stdout.splitlines()
    found = [json.loads(line) for line in lines]
    return [one for one in found if one["who"] and who.items() <= one["who"].items()]


def soon(is_so: Any, within_s: float = 10.0) -> None:
    """Waits for it."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)


def has_tools() -> str | None:
    """Why no container of these tests can do anything; None: they can."""
    missing = [tool for tool in ("curl", "python3") if shutil.which(tool) is None]
    return f"these tests need {', '.join(missing)}" if missing else None
