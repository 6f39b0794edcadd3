"""What should hold on this host, and its application: policy files, wishes and cgroups come in, table sets go out.

Everything here belongs to the control loop: one change is made at a time.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from exeat.agent.census import Census, News
from exeat.agent.enforcer import Enforcer
from exeat.agent.shelf import Shelf
from exeat.agent.wishes import Allowance, Override, Registration, Wish, Wishes
from exeat.core.allow_flag import parse_allow, parse_allow_cidr
from exeat.core.assign import Candidate, Roster
from exeat.core.network_text import is_like_address
from exeat.core.policy_file import read_policy
from exeat.core.union import United, effective_mode, unite
from exeat.errors import ExeatError, KernelError
from exeat.kernel.clock import clock_offset_ns
from exeat.kernel.instance import own_build
from exeat.model.policy import Mode, Policy, Rule

NOBODYS = "no-policy"  # of a registered workload that no policy fits: it denies everything
_OWN_MAX = 256  # policies of registrations; beyond, those of the ones that have gone are forgotten


@dataclass(frozen=True, slots=True)
class Assigned:
    """The policies of a workload, and how its table set is known."""

    policies: tuple[Policy, ...]
    allowances: tuple[Allowance, ...]
    key: str


class Host:
    """The workloads of a host."""

    def __init__(
        self, shelf: Shelf, wishes: Wishes, census: Census, enforcer: Enforcer, node_labels: Mapping[str, str]
    ) -> None:
        self.shelf = shelf
        self.wishes = wishes
        self.census = census
        self.enforcer = enforcer
        self.failures: dict[int, str] = {}  # workloads that could not be put under what they should be under
        self.clock_changes = 0  # ends are reckoned anew when the wall clock was set
        self._node_labels = node_labels
        self._roster = Roster(())
        self._own: dict[str, Policy] = {}  # policies of registrations, by text
        self._build = own_build()

    @property
    def is_known(self) -> bool:
        """Whether everything that should hold could be read."""
        return not self.wishes.complaints and self.shelf.is_readable

    def settle_all(self) -> tuple[int, ...]:
        """Looks at every cgroup; the workloads that changed, whose connections may have to be cut."""
        held = self.shelf.in_force
        self._roster = Roster(policy for one in held.values() if (policy := one.policy))
        for workload in [one for one in self.wishes.ids() if self.census.path_of(one) is None]:
            self.forget(workload)  # it went while no agent ran
        known = {cgroup for path in self.census.paths() if (cgroup := self.census.id_of(path)) is not None}
        return self.settle([*known, *(one for one in self.enforcer.bound if one not in known)])

    def settle(self, workloads: Iterable[int]) -> tuple[int, ...]:
        """The same for some."""
        return tuple(workload for workload in workloads if self._settle(workload))

    def take(self, news: News) -> tuple[int, ...]:
        """Cgroups came and went; the workloads that this changed."""
        return self.settle(self.concerned(news))

    def concerned(self, news: News) -> list[int]:
        """Which must be settled: workloads that have gone, and cgroups that have come."""
        bound = list(self.enforcer.bound.values()) if news.went else ()
        gone = [one.id for one in bound if one.path in news.went and self.census.id_of(one.path) != one.id]
        for workload in [one for one in self.failures if self.census.path_of(one) is None]:
            del self.failures[workload]
        came = (self.census.id_of(path) for path in news.came)
        return [*gone, *(cgroup for cgroup in came if cgroup is not None)]

    def forget(self, workload: int) -> None:
        """Its cgroup has gone."""
        self.wishes.drop(workload)
        self.failures.pop(workload, None)
        self.enforcer.release(workload)

    def wish(self, workload: int, wish: Wish) -> None:
        """Something was asked for a workload: kept, then applied. What cannot be applied is not kept."""
        before = self.wishes.of(workload, wish.cgroup)
        if wish.override == before.override and self._heed_kernel(workload):
            before = self.wishes.of(workload, wish.cgroup)
            wish = replace(wish, override=before.override)
        self.wishes.put(workload, wish)
        try:
            self._put(workload)
        except (ExeatError, ValueError, OSError):
            self.wishes.hold(workload, before)
            raise

    @property
    def is_settled(self) -> bool:
        """Whether every workload is under what it should be under."""
        return self.is_known and not self.failures

    def release_left(self) -> None:
        """What an agent before this one judged and nobody wants any more. Where that cannot be known, it stays."""
        for workload in list(self.enforcer.left):
            is_wanted = workload in self.failures or not self.is_known
            if self.census.path_of(workload) is None or not is_wanted:
                self.enforcer.release(workload)

    def sentence(self) -> str:
        """How much there is, for the journal."""
        return f"{len(self.enforcer.bound)} workloads, {len(self.shelf.in_force)} policies"

    def registration(self, workload: int) -> Registration | None:
        """How it was registered, if it was."""
        return self.wishes.of(workload, "").registration

    def named(self, text: str) -> list[int]:
        """The workloads that somebody means: by name or path, or by a part of one if only that fits."""
        bound = self.enforcer.bound
        exact = [one.id for one in bound.values() if text in (one.name, one.path)]
        return exact or [one.id for one in bound.values() if text in one.name or text in one.path]

    def assigned(self, workload: int) -> Assigned | None:
        """What a cgroup should be under; None: it is nobody's workload."""
        path = self.census.path_of(workload)
        if path is None:
            return None
        wish = self.wishes.of(workload, path)
        registration = wish.registration
        name = registration.name if registration else path
        held = self.shelf.in_force
        labels = registration.labels if registration else {}
        candidate = Candidate(cgroup=path, labels=labels, node_labels=self._node_labels)
        found = {policy.name: (policy, held[policy.name].revision) for policy in self._roster.policies_of(candidate)}
        for wanted in registration.policies if registration else ():
            if wanted in held and (policy := held[wanted].policy):
                found[wanted] = (policy, held[wanted].revision)
        if registration and registration.policy_text:
            own = self._own_policy(registration)
            text_hash = hashlib.sha256(registration.policy_text.encode()).hexdigest()
            found[own.name] = (own, text_hash)
        if not found:
            if not (registration or wish.allowances or wish.override):
                return None
            found[NOBODYS] = (Policy(NOBODYS, reason="no policy fits this workload"), "")
        policies = tuple(found[one][0] for one in sorted(found))
        parts = [(one, found[one][1], effective_mode(found[one][0], name)) for one in sorted(found)]
        allowances = [(one.id, one.destination, one.until_ns) for one in wish.allowances]
        key = json.dumps([parts, allowances, self._build, self.clock_changes])
        return Assigned(policies, wish.allowances, hashlib.sha256(key.encode()).hexdigest())

    def expire(self, wall_ns: int, now_ns: int) -> tuple[int, ...]:
        """Ends registrations, allowances and modes whose time has come; the workloads that this changed."""
        changed = []
        for workload in self.wishes.ending(wall_ns, now_ns):
            wish = self.wishes.of(workload, "")
            kept = _without_what_ended(wish, wall_ns, now_ns)
            if kept != wish:
                self.wishes.hold(workload, kept)
                changed.append(workload)
        return self.settle(changed)

    def note_quarantine(self, workload: int, reason: str) -> bool:
        """The kernel may have put a workload into quarantine, by a limit; whether that is so, and news."""
        return self._heed_kernel(workload, reason) and self._settle(workload)

    def _heed_kernel(self, workload: int, reason: str = "a limit of its policy was exceeded") -> bool:
        """What a program decided is kept, as if it had been asked for: a change of policy must not lift it."""
        path = self.census.path_of(workload)
        if path is None or not self.enforcer.is_quarantined(workload):
            return False
        wish = self.wishes.of(workload, path)
        if wish.override and wish.override.mode is Mode.QUARANTINE:
            return False
        self.wishes.hold(workload, replace(wish, override=Override(Mode.QUARANTINE, 0, reason, "the kernel")))
        return True

    def _settle(self, workload: int) -> bool:
        if self.census.path_of(workload) is None:
            if workload in self.enforcer.bound or workload in self.wishes.ids():
                self.forget(workload)
            return False
        self._heed_kernel(workload)
        try:
            return self._put(workload)
        except (ExeatError, ValueError, OSError) as error:
            self.failures[workload] = f"{self.census.path_of(workload)} stays as it was: {error}"
            return False

    def _put(self, workload: int) -> bool:
        if not self.shelf.given.is_whole and workload in self.enforcer.left:
            raise KernelError("what the plane sent last cannot be used, and may be what is stricter than the rest")
        assigned = self.assigned(workload)
        if assigned is None:
            return self._let_go(workload)
        path = self.census.path_of(workload)
        if path is None:
            raise KernelError("the cgroup has gone")
        wish = self.wishes.of(workload, path)
        name = wish.registration.name if wish.registration else path
        changed = self.enforcer.put(workload, path, name, assigned.key, lambda: _united(assigned, name), wish.override)
        self.failures.pop(workload, None)
        self.census.attend(path)
        return changed

    def _let_go(self, workload: int) -> bool:
        if workload in self.enforcer.bound:
            self.enforcer.release(workload)
            return True
        return False

    def _own_policy(self, registration: Registration) -> Policy:
        text = registration.policy_text
        if text not in self._own:
            if len(self._own) >= _OWN_MAX:
                used = {one.policy_text for number in self.wishes.ids() if (one := self.registration(number))}
                self._own = {known: policy for known, policy in self._own.items() if known in used}
            self._own[text] = read_policy(text, f"the policy of {registration.name}").policy
        policy = self._own[text]
        return (
            replace(policy, name=f"{registration.name}:{policy.name}") if policy.name in self.shelf.in_force else policy
        )


def allowed_rule(allowance: Allowance) -> Rule:
    """The rule that an allowance stands for. Raises PolicyError."""
    rule = parse_destination(allowance.destination)
    return replace(rule, name=f"allowed-{allowance.id}", expires=_at(allowance.until_ns))


def parse_destination(text: str) -> Rule:
    """`HOST|ADDRESS|CIDR[:PORTS][/PROTO]`. Raises PolicyError."""
    host = text.partition("/")[0].rpartition(":")[0] or text.partition("/")[0]
    is_address = text.startswith("[") or text.count(":") > 1 or is_like_address(host.partition(":")[0])
    return parse_allow_cidr(text) if is_address else parse_allow(text)


def _united(assigned: Assigned, name: str) -> United:
    united = unite(assigned.policies, name)
    rules = tuple(allowed_rule(allowance) for allowance in assigned.allowances)
    policy = replace(united.policy, rules=united.policy.rules + rules)
    if rules and policy.expires:  # an allowance given to an expired policy's workload is meant to open
        policy = replace(policy, expires=max(policy.expires, *(rule.expires for rule in rules if rule.expires)))
    return United(policy, united.origins + ("",) * len(rules))


def _at(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC)


def _without_what_ended(wish: Wish, wall_ns: int, now_ns: int) -> Wish:
    registration, override = wish.registration, wish.override
    if registration and 0 < registration.until_ns <= wall_ns:
        registration = None
    if override and 0 < override.until_ns <= now_ns:
        override = None
    allowances = tuple(one for one in wish.allowances if one.until_ns > wall_ns)
    return replace(wish, registration=registration, override=override, allowances=allowances)


def wall_of(boot: int) -> int:
    """A time of the boot clock on the wall clock."""
    return boot + clock_offset_ns()
