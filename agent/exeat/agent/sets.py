"""Table sets in the kernel, each for all workloads that are under the same policies; and what became of old ones."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exeat.agent.namings import Namings
from exeat.core.compile import compile_policy
from exeat.core.compile_rules import until_ns
from exeat.core.union import United
from exeat.dns.gate import boot_ns as boot_now_ns
from exeat.kernel.clock import clock_offset_ns
from exeat.kernel.instance import Instance
from exeat.kernel.tables import Tables, boot_ns
from exeat.kernel.takeover import GrantLeft
from exeat.kernel.telling import Naming
from exeat.ledger import Ledger
from exeat.whole_files import write_whole

_GRACE_NS = 5 * 10**9  # events and packets under way may still name it
_CLOCK_STEP_NS = 10**9  # when the wall clock is set, the ends of rules are reckoned anew


@dataclass(slots=True)
class TableSetInKernel:
    """One of them."""

    key: str  # what it was made of
    united: United
    ledger: Ledger
    ends_ns: list[int]  # boot clock, sorted: when something of it ends
    entries: dict[str, int]  # how many, by table
    users: set[int] = field(default_factory=set)  # workloads
    unused_since_ns: int = 0

    @property
    def policy_id(self) -> int:
        """The kernel's."""
        return self.ledger.policy_id


class Sets:
    """Makes them, shares them, collects them. Remembers on disk which is which, for the agent after this one."""

    def __init__(self, instance: Instance, tables: Tables, memory: Path) -> None:
        self.namings = Namings(memory.with_name("names"))
        self.complaint = ""
        self._instance = instance
        self._tables = tables
        self._memory = memory
        self._sets: dict[str, TableSetInKernel] = {}
        self._left: dict[str, int] = {}  # policy ids of an agent before this one, by key
        # Policy ids in the kernel that are none of these, and since when they are known to be; 0: just seen.
        self._unclaimed: dict[int, int] = {}
        self._grants_left: dict[int, list[GrantLeft]] = {}
        self._is_remembered = True

    def take_over(self, policies: set[int], grants: dict[int, list[GrantLeft]]) -> None:
        """Learns what is in the kernel already."""
        self._grants_left = grants
        self._unclaimed = dict.fromkeys(policies, 0)
        self.namings.recall(policies)
        pairs = self._recall()
        self._left = {key: policy_id for key, policy_id in pairs.items() if policy_id in policies}
        if pairs and not policies:  # of programs that have gone: the new ones count from the start again
            try:
                self._memory.unlink(missing_ok=True)
            except OSError as error:
                self.complaint = f"{self._memory} is out of date and cannot be removed: {error.strerror}"

    def of(self, key: str, unite: Callable[[], United]) -> TableSetInKernel:
        """The table set of a key; made if there is none. Raises ValueError or KernelError if it cannot be."""
        found = self._sets.get(key)
        if found is None:
            found = self._sets[key] = self._make(key, unite())
            self._is_remembered = False
        return found

    def grants_under(self, policy_id: int) -> list[GrantLeft]:
        """What an agent before this one granted under a policy."""
        return self._grants_left.get(policy_id, [])

    @property
    def all(self) -> tuple[TableSetInKernel, ...]:
        """Every one that this agent knows."""
        return tuple(self._sets.values())

    def collect(self, now_ns: int, bound: set[int]) -> list[int]:
        """Forgets those that nobody has used for a while; the policy ids to be removed from the kernel."""
        gone = []
        for one in list(self._sets.values()):
            if one.users or one.ledger.is_used or one.policy_id in bound:
                one.unused_since_ns = 0
            elif not one.unused_since_ns:
                one.unused_since_ns = now_ns
            elif now_ns - one.unused_since_ns > _GRACE_NS:
                del self._sets[one.key]
                gone.append(one.policy_id)
        gone += self._collect_unclaimed(now_ns, bound)
        if gone:
            self._is_remembered = False
        for policy_id in gone:
            self.namings.drop(policy_id)
        return gone

    def _collect_unclaimed(self, now_ns: int, bound: set[int]) -> list[int]:
        """The same of those that an agent before this one left, and for which there is no use any more."""
        gone = []
        for policy_id, since_ns in list(self._unclaimed.items()):
            if policy_id in bound or not since_ns:
                self._unclaimed[policy_id] = 0 if policy_id in bound else now_ns
            elif now_ns - since_ns > _GRACE_NS:
                del self._unclaimed[policy_id]
                self._grants_left.pop(policy_id, None)
                gone.append(policy_id)
        self._left = {key: policy_id for key, policy_id in self._left.items() if policy_id not in gone}
        return gone

    def remember(self) -> None:
        """For the agent after this one, if there is news. Without it, that one makes all sets anew."""
        if self._is_remembered:
            return
        self.namings.write()
        known = {one.key: one.policy_id for one in self._sets.values()}
        write_whole(self._memory, json.dumps({"clock": clock_offset_ns(), "sets": known}).encode())
        self._is_remembered = True

    def _recall(self) -> dict[str, int]:
        """What the agent before this one remembered; nothing if that is no use: then all are made anew."""
        try:
            known = json.loads(self._memory.read_text(encoding="utf-8"))
            offset_ns, pairs = int(known["clock"]), {str(key): int(one) for key, one in known["sets"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            self.complaint = f"{self._memory} cannot be read ({error}): every table is written anew"
            return {}
        return pairs if abs(clock_offset_ns() - offset_ns) < _CLOCK_STEP_NS else {}  # else their ends are wrong

    def _make(self, key: str, united: United) -> TableSetInKernel:
        table_set = compile_policy(united.policy)
        policy_id = self._left.pop(key, None)
        is_new = policy_id is None
        if policy_id is None:
            policy_id = self._tables.add(table_set)
        self._unclaimed.pop(policy_id, None)
        in_use = {one.policy_id for one in self._sets.values()}
        self.namings.add(policy_id, Naming(table_set.policy_name, table_set.rule_names), in_use)
        ledger = Ledger(self._instance, policy_id, table_set, united.policy.dns)
        if not is_new:
            ledger.restore(self.grants_under(policy_id), boot_now_ns())
        ends = {end for end in (united.policy.expires, *(rule.expires for rule in united.policy.rules)) if end}
        entries = {"networks": len(table_set.networks), "ports": len(table_set.ports), "hosts": len(table_set.hosts)}
        return TableSetInKernel(key, united, ledger, sorted(boot_ns(until_ns(end)) for end in ends), entries)
