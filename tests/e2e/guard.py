"""One instance of the enforcer for the whole test session, and throw-away workloads under it."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from exeat.core.compile import compile_policy
from exeat.core.names import parse_host_pattern
from exeat.kernel.events import EventRing
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.tables import Tables
from exeat.model.policy import Mode, Policy, PortRange, Protocol, Rule
from exeat.model.verdicts import Reason, Verdict


def rule(
    *cidrs: str, hosts: tuple[str, ...] = (), ports: tuple[int, ...] = (), protocol: str = "tcp", **more: object
) -> Rule:
    """A rule in a line; tls rules default to port 443."""
    wanted = ports or ((443,) if protocol == "tls" else ())
    return Rule(
        name=f"{protocol} {' '.join(cidrs)}",
        protocol=Protocol(protocol),
        hosts=tuple(parse_host_pattern(host) for host in hosts),
        cidrs=tuple(ip_network(cidr) for cidr in cidrs),
        ports=tuple(PortRange(port, port) for port in wanted),
        **more,  # type: ignore[arg-type]
    )


@dataclass
class Told:
    """One verdict as the kernel told it."""

    verdict: Verdict
    reason: Reason
    address: bytes
    port: int
    name: str
    rule: int
    workload: int
    hook: int
    protocol: int
    bytes: int
    judged_ns: int
    cookie: int


@dataclass
class Workload:
    """A cgroup under a policy."""

    guard: "Guard"
    cgroup: Path
    policy_ids: list[int] = field(default_factory=list)

    @property
    def id(self) -> int:
        """The kernel's id of the cgroup."""
        return self.cgroup.stat().st_ino

    def switch(self, *rules: Rule, mode: Mode = Mode.ENFORCE, **more: object) -> int:
        """Puts it under a new policy of these rules."""
        policy = Policy("test", rules, mode=mode, **more)  # type: ignore[arg-type]
        policy_id = self.guard.tables.add(compile_policy(policy))
        self.guard.tables.switch(self.id, policy_id)
        self.policy_ids.append(policy_id)
        return policy_id

    def told(self) -> list[Told]:
        """All verdicts on it since the last call."""
        self.guard.collect()
        mine = [told for told in self.guard.backlog if told.workload == self.id]
        self.guard.backlog = [told for told in self.guard.backlog if told.workload != self.id]
        return mine

    def reasons(self) -> list[tuple[Verdict, Reason]]:
        """Verdict and reason of each."""
        return [(told.verdict, told.reason) for told in self.told()]


_NUMBERS = itertools.count()


class Guard:
    """The programs, attached to a cgroup of the tests' own; `outside` is a cgroup beside it."""

    def __init__(self) -> None:
        root = mount_point("cgroup2")
        assert root
        sweep(root)
        name = f"{os.getpid()}-{next(_NUMBERS)}"
        self.top = root / f"exeat-test-{name}"
        self.top.mkdir()
        self.instance = Instance(f"test-{name}")
        self.instance.load()
        self.instance.attach(self.top)
        self.tables = Tables(self.instance)
        self.ring = EventRing(self.instance.map("events"))
        self.backlog: list[Told] = []
        self._made = 0

    def collect(self) -> None:
        """Takes what is in the ring."""
        for event in self.ring.drain():
            name = bytes(event.name[: event.name_length]).decode("latin-1")
            self.backlog.append(
                Told(
                    Verdict(event.verdict),
                    Reason(event.reason),
                    bytes(event.address),
                    int.from_bytes(bytes(event.port), "big"),
                    name,
                    event.rule_id,
                    event.workload,
                    event.hook,
                    event.protocol,
                    event.bytes,
                    event.judged_ns,
                    event.cookie,
                )
            )

    def leaf(self) -> Path:
        """A cgroup that nobody manages yet, below the attached one."""
        self._made += 1
        leaf = self.top / f"w{self._made}"
        leaf.mkdir()
        return leaf

    @contextmanager
    def workload(self, *rules: Rule, mode: Mode = Mode.ENFORCE, **more: object) -> Iterator[Workload]:
        """A cgroup under a policy, for one test."""
        workload = Workload(self, self.leaf())
        workload.switch(*rules, mode=mode, **more)
        try:
            yield workload
        finally:
            self.tables.unbind(workload.id)
            for policy_id in workload.policy_ids:
                self.tables.remove(policy_id)
            remove_cgroup(workload.cgroup)

    def close(self) -> None:
        """Leaves nothing behind."""
        self.ring.close()
        self.instance.remove()
        for leaf in self.top.iterdir():
            if leaf.is_dir():
                remove_cgroup(leaf)
        remove_cgroup(self.top)


def sweep(root: Path) -> None:
    """Removes what a test run left that was killed."""
    for top in root.glob("exeat-test-*"):
        name = top.name.removeprefix("exeat-test-")
        if not Path("/proc", name.partition("-")[0]).exists():
            remove_instance(f"test-{name}")
            remove_cgroup(top)


def remove_cgroup(cgroup: Path) -> None:
    """Ends what lives in it, then removes it and what is below."""
    (cgroup / "cgroup.kill").write_text("1")
    for below in sorted((path for path in cgroup.rglob("*") if path.is_dir()), reverse=True):
        _remove_soon(below)
    _remove_soon(cgroup)


def _remove_soon(cgroup: Path) -> None:
    """What was killed takes a moment to be gone."""
    for _ in range(200):
        try:
            cgroup.rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            return
    cgroup.rmdir()
