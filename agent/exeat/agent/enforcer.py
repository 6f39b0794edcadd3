"""Puts workloads under table sets, and keeps kernel, gates and open connections in step."""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from exeat.agent.interface_ids import is_interface
from exeat.agent.sets import Sets, TableSetInKernel
from exeat.agent.wishes import Override
from exeat.core.grants import Grants
from exeat.core.union import United
from exeat.dns.gate import boot_ns
from exeat.dns.keeping import Keeping
from exeat.errors import KernelError
from exeat.gate_thread import GateThread
from exeat.gatehouse import Gatehouse
from exeat.kernel.abi import NEVER
from exeat.kernel.entries import SPARED
from exeat.kernel.instance import Instance
from exeat.kernel.sockets import Diagnosis
from exeat.kernel.sweep import cut_revoked_of
from exeat.kernel.tables import Tables
from exeat.kernel.takeover import Left, forget_gates
from exeat.model.identity import Who
from exeat.model.policy import Mode, Server
from exeat.model.record import Record

_CERTAINLY_NS = 50_000_000  # later than the kernel's idea of an end, which was reckoned a little earlier
_LEFT_GRANTS_MAX = 65_536
_GONE_MAX = 4096  # workloads that have gone, of which a late event may speak
_LENIENT = (Mode.MONITOR, Mode.OPEN)  # deny nothing, so they end nothing
_NO_POLICY = 0  # an id that no policy ever has: the judge denies everything under it


@dataclass(slots=True)
class Bound:
    """A workload that is judged."""

    id: int
    path: str
    name: str
    table_set: TableSetInKernel
    house: Gatehouse
    override: Override | None
    since_ns: int  # boot clock
    namespaces: dict[int, int] = field(default_factory=dict)  # inode of the namespace -> its cookie
    unseen: dict[int, int] = field(default_factory=dict)  # how often a namespace was looked for in vain
    joined: int = 0  # namespaces so far, with those that it has left

    def mode(self, now_ns: int) -> Mode:
        """In force now."""
        return _mode_now(self.override, now_ns) or self.table_set.united.policy.mode


def _mode_now(override: Override | None, now_ns: int) -> Mode | None:
    if override is None or 0 < override.until_ns <= now_ns:
        return None
    return override.mode


class Enforcer:
    """Belongs to the control loop. `left` is what an agent before this one had bound."""

    def __init__(
        self,
        instance: Instance,
        tables: Tables,
        sets: Sets,
        thread: GateThread,
        host_servers: tuple[Server, ...],
        take: Callable[[Record], None],
        keeping: Keeping,
        timed: Callable[[int], None],
    ) -> None:
        self._timed = timed
        # Read by the thread that tells events; names outlive their workloads.
        self.paths: dict[int, str] = {}
        self.whos: dict[int, Who] = {}
        self.who_at: dict[str, Who] = {}  # the same by path, of those that are bound
        self.bound: dict[int, Bound] = {}
        self.left: dict[int, Left] = {}
        self._instance = instance
        self._tables = tables
        self._sets = sets
        self._thread = thread
        self._host_servers = host_servers
        self._take = take
        self._keeping = keeping
        self._gone: deque[int] = deque()

    def call(self, workload: int, path: str, who: Who) -> None:
        """What it is called in verdicts, which may fall before a policy is there."""
        self.paths[workload] = path
        self.whos[workload] = self.who_at[path] = who

    def put(
        self, workload: int, path: str, name: str, key: str, unite: Callable[[], United], override: Override | None
    ) -> bool:
        """Puts a workload under a table set and a mode; whether that changed anything. Nothing is cut yet."""
        now_ns = boot_ns()
        table_set = self._sets.of(key, unite)
        bound = self.bound.get(workload)
        mode = _mode_now(override, now_ns)
        if bound and bound.table_set is table_set and bound.override == override:
            bound.name = name
            return False
        if bound is None:
            self._bind(workload, path, name, table_set, override, now_ns)
        else:
            self._move(bound, table_set, override, mode, now_ns)
            bound.name = name
        return True

    def is_quarantined(self, workload: int) -> bool:
        """Whether the kernel has it so, for good: a program that found a limit exceeded writes it there itself."""
        return self._tables.mode_set(workload) == (Mode.QUARANTINE, NEVER)

    def nearest(self, path: str, id_of: Callable[[str], int | None]) -> Bound | None:
        """Under which workload a cgroup is, be it one itself or below one."""
        while (bound := self.bound.get(id_of(path) or 0)) is None and path != "/":
            path = os.path.dirname(path)
        return bound

    def spare(self, workload: int) -> None:
        """Nobody judges it, whatever is above it."""
        self.left.pop(workload, None)
        self._tables.switch(workload, SPARED)

    def release(self, workload: int) -> None:
        """It has gone, or nobody manages it any more."""
        bound = self.bound.pop(workload, None)
        if bound:
            bound.table_set.users.discard(workload)
            bound.house.close()
            self.who_at.pop(bound.path, None)
        if workload in self.paths:
            self._forget_later(workload)
        self.left.pop(workload, None)
        self._tables.unbind(workload)
        forget_gates(self._instance, workload)

    def cut(self, workloads: Iterable[int]) -> int:
        """Ends the open connections that the present policies do not allow; how many.

        Those of a guest end by themselves: its programs judge each anew at its next packet, and no socket here is its.
        """
        policy_ids, diagnoses = {}, {}
        now_ns = boot_ns()
        for workload in workloads:
            if is_interface(workload):
                continue
            bound = self.bound.get(workload)
            mode = bound.mode(now_ns) if bound else Mode.OPEN
            if bound and mode not in _LENIENT:
                policy_ids[workload] = _NO_POLICY if mode is Mode.QUARANTINE else bound.table_set.policy_id
                diagnoses.update(bound.house.diagnoses())
        return self._swept(policy_ids, diagnoses) if policy_ids else 0

    def cut_flow(self, workload: int, destroy: Callable[[Diagnosis], bool]) -> bool:
        """Ends one connection, in whichever of the workload's namespaces it is; whether it was found in one.

        There is none of a guest on this host to be found. Called by the events' thread.
        """
        if is_interface(workload):
            return True
        bound = self.bound.get(workload)
        for diagnosis in bound.house.diagnoses().values() if bound else ():
            try:
                if destroy(diagnosis):
                    return True
            except (OSError, KernelError) as error:
                if not isinstance(error, OSError) or error.errno != errno.EBADF:  # else the namespace was just left
                    raise
        return False

    def joined(self, workload: int) -> int:
        """How many namespaces of it the agent has joined so far, in which it can end connections."""
        bound = self.bound.get(workload)
        return bound.joined if bound else 0

    def tick(self, now_ns: int) -> None:
        """Follows what the kernel does by the clock: connections of rules that have ended end."""
        over = [one for one in self._sets.all if one.ends_ns and one.ends_ns[0] + _CERTAINLY_NS <= now_ns]
        for one in over:
            while one.ends_ns and one.ends_ns[0] + _CERTAINLY_NS <= now_ns:
                one.ends_ns.pop(0)
        self.cut({user for one in over for user in one.users})

    def collect(self, now_ns: int) -> list[int]:
        """Policy ids that nobody uses any more and the kernel may forget; removing them takes a while."""
        return self._sets.collect(now_ns, {left.policy_id for left in self.left.values()})

    def _bind(
        self, workload: int, path: str, name: str, table_set: TableSetInKernel, override: Override | None, now_ns: int
    ) -> None:
        left = self.left.get(workload)
        mode = _mode_now(override, now_ns)
        ledger, keeping = table_set.ledger, self._keeping
        if left is None or left.policy_id != table_set.policy_id:
            if left:
                self._adopt_left(table_set, left, now_ns)
            self._write(workload, table_set, override)
        elif (left.mode, left.mode_until_ns) != self._as_left(override):
            self._write(workload, table_set, override)
        house = Gatehouse(
            self._thread, workload, path, ledger, self._host_servers, self._take, mode, keeping, self._timed
        )
        self.left.pop(workload, None)  # only now: where something failed, what was left is what holds
        table_set.users.add(workload)
        self.bound[workload] = Bound(workload, path, name, table_set, house, override, now_ns)

    def _move(
        self, bound: Bound, table_set: TableSetInKernel, override: Override | None, mode: Mode | None, now_ns: int
    ) -> None:
        before = bound.table_set

        def move() -> None:
            if before is not table_set:
                bound.house.tell_evicted(table_set.ledger.adopt(before.ledger, now_ns))
            bound.house.switch(table_set.ledger, mode)
            self._write(bound.id, table_set, override)

        self._thread.do(move)
        before.users.discard(bound.id)
        table_set.users.add(bound.id)
        bound.table_set, bound.override, bound.since_ns = table_set, override, now_ns

    def _write(self, workload: int, table_set: TableSetInKernel, override: Override | None) -> None:
        mode, until_ns = self._as_left(override)
        self._tables.switch(workload, table_set.policy_id, mode=mode, until_boot_ns=until_ns)

    def _as_left(self, override: Override | None) -> tuple[Mode | None, int]:
        return (override.mode, override.until_ns or NEVER) if override else (None, NEVER)

    def _adopt_left(self, table_set: TableSetInKernel, left: Left, now_ns: int) -> None:
        """What an agent before this one granted under a policy that is no more."""
        book = Grants(_LEFT_GRANTS_MAX)
        for name, address, ports_id, until_ns in self._sets.grants_under(left.policy_id):
            book.grant(name, (address,), ports_id or 1, until_ns, now_ns, lambda _: 0)
        self._thread.do(lambda: table_set.ledger.adopt_book(book, (), now_ns))

    def _forget_later(self, workload: int) -> None:
        self._gone.append(workload)
        while len(self._gone) > _GONE_MAX:
            oldest = self._gone.popleft()
            if oldest not in self.bound:
                self.paths.pop(oldest, None)
                self.whos.pop(oldest, None)

    def _swept(self, policy_ids: dict[int, int], diagnoses: dict[int, Diagnosis]) -> int:
        return cut_revoked_of(self._instance, self._tables, policy_ids, diagnoses.values())
