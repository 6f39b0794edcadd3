"""A stage for `exeat agent`: a real agent in the bed's client namespace, with directories and cgroups of its own.

    shop, evil   hosts with TLS on 443 (*.shop.test, *.evil.test) and plain TCP on 7
    resolver     knows both by name; the agent's policies ask it

    with open_agent_stage() as stage:
        cgroup = stage.cgroup("coder-1")                       # below stage.top, which the policies' subjects name
        stage.write("coder", stage.policy("coder", stage.rules(shop)))
        stage.start()
        stage.exeat("status")

The agent's pins have a name of their own for each process of tests, so that stages can run side by side.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from bed import Bed, Dns, Finished, Host, Tcp, Tls, call_in, missing_capability, run_in, start_in
from e2e.guard import remove_cgroup
from e2e.left_over import end_what_was_left
from exeat.control.asking import AgentClient
from exeat.control.client import connect, trouble_at
from exeat.errors import AgentUnavailable
from exeat.kernel.filesystems import bpf_root, mount_point
from exeat.kernel.instance import remove_instance
from exeat.kernel.programs import ENFORCING

EXEAT = (sys.executable, "-m", "exeat.cli.main")
_OWNER = os.getpid()
INSTANCE = f"agent-{_OWNER}"
START_S = 60.0  # how long the compiler may take on a busy machine
SO_S = 20.0  # and whatever else is waited for: each look may be the start of a program
SETTINGS = """\
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  policies: {0}/policies.d
  state: {0}/lib
  runtime: {0}/run
  log: {{directory: {0}/log}}
  api: {{socket: {0}/run/agent.sock}}
  metrics: {{listen: "127.0.0.1:9469"}}
  runtimes: {1}
"""
NO_RUNTIMES = "{docker: off, podman: off, cri: off}"  # containers of other tests are none of ours
POLICY = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  owner: tests@example.com
  reason: "end-to-end tests of exeat agent"
  subject: {{cgroups: ["{subject}"]}}
  mode: {mode}
{more}  dns: {{upstreams: ["{resolver}"]}}
  egress:
{rules}
"""


@dataclass
class AgentStage:
    """The bed, its hosts, the agent's directories, and a cgroup for all workloads."""

    bed: Bed
    shop: Host
    evil: Host
    resolver: Host
    directory: Path
    top: Path
    process: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)  # of agents to come
    keeps_programs: bool = True
    _cgroups: list[Path] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        """The agent's."""
        return self.directory / "run" / "agent.sock"

    @property
    def subject(self) -> str:
        """A pattern for every workload of the stage."""
        return f"/{self.top.name}/*"

    def path(self, cgroup: Path) -> str:
        """A cgroup's name in the hierarchy."""
        return f"/{self.top.name}/{cgroup.name}"

    def cgroup(self, name: str) -> Path:
        """A new cgroup."""
        cgroup = self.top / name
        cgroup.mkdir()
        self._cgroups.append(cgroup)
        return cgroup

    def rules(self, *hosts: Host, port: int = 7) -> str:
        """A rule for each host's networks on a plain port."""
        return "".join(
            f"  - {{name: {host.name}-{port}, cidrs: {json.dumps(host.addresses)}, ports: [{port}], protocol: tcp}}\n"
            for host in hosts
        )

    def names(self, *names: str) -> str:
        """A tls rule for names."""
        return f"  - {{name: web, hosts: [{', '.join(map(json.dumps, names))}]}}\n"

    def policy(self, name: str, rules: str, *, mode: str = "enforce", subject: str = "", more: str = "") -> str:
        """A policy's text."""
        return POLICY.format(
            name=name,
            subject=subject or self.subject,
            mode=mode,
            more=more,
            resolver=self.resolver.address4,
            rules=rules or "  []",
        )

    def write(self, name: str, text: str) -> Path:
        """Puts a policy file in place as careful people do."""
        path = self.directory / "policies.d" / f"{name}.yaml"
        draft = path.with_suffix(".new")
        draft.write_text(text)
        draft.replace(path)
        return path

    def start(self, *, wait: bool = True, cgroup: Path | None = None) -> None:
        """Starts the agent, where these tests are or in a cgroup."""
        with (self.directory / "out").open("a") as out:
            line = [*EXEAT, "agent", "--config", str(self.directory / "exeat.yaml")]
            environment = {"EXEAT_INSTANCE": INSTANCE, **self.environment}
            self.process = start_in(self.bed, line, cgroup=cgroup, stdout=out, stderr=out, env=environment)
        if wait:
            self.wait_until(lambda: trouble_at(self.socket) is None, START_S)

    def wait_for_new_programs(self, home: Path) -> None:
        """Returns when an agent that has just started is about to attach what it had compiled. `home`: of its pins."""
        incoming = home / "incoming"

        def are_there() -> bool:
            try:
                return len(os.listdir(incoming)) >= len(ENFORCING) - 3  # while the last ones are loaded we look again
            except FileNotFoundError:
                return True  # they have been taken in

        self.wait_until(incoming.exists, START_S)
        self.wait_until(are_there, START_S)

    def wait_for_guest_programs(self) -> None:
        """Returns when those are in the kernel that an agent has compiled after its start, for guests to come.

        The agents of stages to come take them over; each that is killed meanwhile leaves the work to the next one.
        """
        mark = f"*/{INSTANCE}/guests-build-*"
        self.wait_until(lambda: any((bpf_root() / "exeat").glob(mark)), START_S)

    def stop(self) -> None:
        """Ends it as systemd does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it as a crash does."""
        self._end(signal.SIGKILL)

    def said(self) -> str:
        """What it wrote."""
        return (self.directory / "out").read_text()

    @contextmanager
    def client(self) -> Iterator[AgentClient]:
        """The local API."""
        with connect(self.socket) as client:
            yield client

    def status(self) -> Any:
        """What `exeat status -o json` tells, asked without the start of a program."""
        with self.client() as client:
            told = client.get_status()
        return MessageToDict(told, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)

    def answers(self) -> bool:
        """Whether the agent says how it is."""
        try:
            return bool(self.status())
        except AgentUnavailable:
            return False

    def exeat(self, *arguments: str, check: bool = True) -> Finished:
        """A command of the operator's."""
        finished = run_in(self.bed, [*EXEAT, *arguments], env={"EXEAT_SOCKET": str(self.socket)})
        assert not check or finished.returncode == 0, finished
        return finished

    def json(self, *arguments: str) -> Any:
        """The same, read back; 1 is an answer too: no, or not all is well."""
        finished = self.exeat(*arguments, "-o", "json", check=False)
        assert finished.returncode in (0, 1), finished
        return json.loads(finished.stdout)

    def run(self, function: Callable[[], Any], cgroup: Path, **how: Any) -> Any:
        """Calls a function inside a workload."""
        return call_in(self.bed, function, cgroup=cgroup, **how)

    @contextmanager
    def running(self, line: Sequence[str], cgroup: Path, **how: Any) -> "Iterator[subprocess.Popen[str]]":
        """A program as a workload, which is ended at last."""
        with start_in(self.bed, line, cgroup=cgroup, **how) as process:
            try:
                yield process
            finally:
                process.kill()
                process.wait()
                self.bed.disown(process)

    def wait_until(self, is_so: Callable[[], bool], within_s: float = SO_S) -> float:
        """Waits for it; how long it took."""
        began = asked = time.monotonic()
        while not is_so():
            if self.process and self.process.poll() is not None:
                raise AssertionError(f"the agent ended with {self.process.returncode}: {self.said()}")
            if time.monotonic() - began > within_s:
                raise AssertionError(f"not so within {within_s} s: {self.said()[-2000:]}")
            took_s = time.monotonic() - asked
            time.sleep(max(0.005, min(3 * took_s, 0.3)))  # a question that starts a program shall not keep a core busy
            asked = time.monotonic()
        return time.monotonic() - began

    def close(self) -> None:
        """Leaves nothing behind."""
        if self.process and self.process.poll() is None:
            self.kill()
        if not self.keeps_programs:
            remove_instance(INSTANCE)
        (self.top / "cgroup.kill").write_text("1")
        for _ in range(500):
            if "populated 0" in (self.top / "cgroup.events").read_text():
                break
            time.sleep(0.01)
        remove_cgroup(self.top)

    def _end(self, number: int) -> None:
        assert self.process
        os.kill(self.process.pid, number)
        self.process.wait(20)
        self.bed.disown(self.process)
        self.process = None


@contextmanager
def open_agent_stage(*, keeps_programs: bool = True) -> Iterator[AgentStage]:
    """The stage, or a skip with a sentence. No agent runs yet.

    `keeps_programs`: those of the stage before are taken over, as after a crash, and nothing is compiled.
    """
    if missing := missing_capability():
        pytest.skip(missing)
    root = mount_point("cgroup2")
    assert root
    _sweep()
    if not keeps_programs:
        remove_instance(INSTANCE)
    with tempfile.TemporaryDirectory(prefix=f"exeat-agent-{os.getpid()}-") as place, Bed() as bed:
        directory = Path(place)
        (directory / "policies.d").mkdir()
        (directory / "exeat.yaml").write_text(SETTINGS.format(directory, NO_RUNTIMES))
        shop = bed.add("shop", Tls(names=("a.shop.test", "b.shop.test")), Tcp(7))
        evil = bed.add("evil", Tls(names=("a.evil.test",)), Tcp(7))
        zone = {"a.shop.test": shop.addresses, "b.shop.test": shop.addresses, "a.evil.test": evil.addresses}
        resolver = bed.add("resolver", Dns(zone))
        top = root / f"exeat-agents-{os.getpid()}"
        top.mkdir(exist_ok=True)
        stage = AgentStage(bed, shop, evil, resolver, directory, top, keeps_programs=keeps_programs)
        try:
            yield stage
        finally:
            stage.close()


def _sweep() -> None:
    """What this process keeps goes with it; what a killed one kept goes now."""
    atexit.unregister(_leave)
    atexit.register(_leave)
    end_what_was_left(instance="agent-{}", cgroup="exeat-agents-{}", directory="exeat-agent-{}-")


def _leave() -> None:
    if os.getpid() == _OWNER:  # and no child of it
        remove_instance(INSTANCE)


def say(address: str, port: int = 7, text: bytes = b"hello") -> str:
    """Sends a line to an echo server: what came back, or the name of the errno."""
    import errno
    import socket

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect((address, port))
            sock.sendall(text)
            said = b""
            while not said.endswith(text) and (part := sock.recv(100)):  # it greets before it echoes
                said += part
            return said[-len(text) :].decode()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
