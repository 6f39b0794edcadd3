"""What should hold on this host, and its application: policy files, wishes, cgroups and interfaces come in, table sets
go out.

Everything here belongs to the control loop: one change is made at a time.
"""

import os
from collections.abc import Iterable
from dataclasses import replace

from exeat.agent.allowances import allowed_rule
from exeat.agent.assigning import Assigned, Assigning
from exeat.agent.census import News
from exeat.agent.enforcer import Enforcer
from exeat.agent.interface_ids import is_interface
from exeat.agent.roll import Roll
from exeat.agent.shelf import Shelf
from exeat.agent.wishes import Override, Registration, Wish, Wishes
from exeat.core.union import United, unite
from exeat.errors import ExeatError, KernelError
from exeat.kernel.abi import ANCESTORS_MAX
from exeat.kernel.clock import clock_offset_ns
from exeat.kernel.entries import SPARED
from exeat.model.policy import Mode


class Host:
    """The workloads of a host."""

    def __init__(self, shelf: Shelf, wishes: Wishes, roll: Roll, enforcer: Enforcer, assigning: Assigning) -> None:
        self.shelf = shelf
        self.wishes = wishes
        self.roll = roll
        self.enforcer = enforcer
        self.assigning = assigning
        self.failures: dict[int, str] = {}  # workloads that could not be put under what they should be under
        self._own_trouble = ""  # why the agent's own cgroup is not spared

    @property
    def is_known(self) -> bool:
        """Whether everything that should hold could be read."""
        return not self.wishes.complaints and self.shelf.is_readable

    def spare(self, path: str, *, has_listeners: bool) -> None:
        """The agent's own cgroup, under whatever policy what is above it is: it would cut itself off.

        Not where others are beside it: they would go free. `has_listeners`: those of an agent before this one, which
        are of that one's cgroup for ever.
        """
        self.assigning.own = path
        for one in [one for one, left in self.enforcer.left.items() if left.policy_id == SPARED]:
            if has_listeners and self.roll.path_of(one) is None:
                del self.enforcer.left[one]
            else:
                self.enforcer.release(one)
        workload = self.roll.id_of(path) if path != "/" else None
        if workload is None:
            return
        if any(pid != os.getpid() for pid in self.roll.census.pids(path)):
            self._own_trouble = "others are in its cgroup: start it in one of its own"
            return
        try:
            self.enforcer.spare(workload)
        except KernelError as error:
            self._own_trouble = str(error)

    @property
    def complaints(self) -> list[str]:
        """That the agent may be cut off from names and plane."""
        above = self.enforcer.nearest(self.assigning.own, self.roll.id_of) if self._own_trouble else None
        return [f"the agent is judged by the policies of {above.path}, because {self._own_trouble}"] if above else []

    def settle_all(self) -> tuple[int, ...]:
        """Looks at every cgroup and interface; the workloads that changed, whose connections may have to be cut."""
        held = self.shelf.in_force
        policies = [policy for one in held.values() if (policy := one.policy)]
        self.assigning.arrange(policies)
        if any(policy.subject.interfaces for policy in policies):
            self.roll.interfaces.have_started()
        for workload in [one for one in self.wishes.ids() if self.roll.path_of(one) is None]:
            self.forget(workload)  # it went while no agent ran
        self.assigning.identities.forget_but(lambda workload: self.roll.path_of(workload) is not None)
        known = {one for path in self.roll.paths() if (one := self.roll.id_of(path)) is not None}
        return self.settle([*known, *(one for one in self.enforcer.bound if one not in known)])

    def settle(self, workloads: Iterable[int]) -> tuple[int, ...]:
        """The same for some."""
        return tuple(workload for workload in workloads if self._settle(workload))

    def take(self, news: News) -> tuple[int, ...]:
        """Cgroups and interfaces came and went; the workloads that this changed."""
        return self.settle(self.concerned(news))

    def concerned(self, news: News) -> list[int]:
        """Which must be settled: workloads that have gone, and what has come."""
        for workload in news.replaced:
            self.forget(workload)
        bound = list(self.enforcer.bound.values()) if news.went else ()
        gone = [one.id for one in bound if one.path in news.went and self.roll.id_of(one.path) != one.id]
        for workload in [one for one in self.failures if self.roll.path_of(one) is None]:
            del self.failures[workload]
        self.assigning.identities.forget_at(news.went)
        came = (self.roll.id_of(path) for path in news.came)
        return [*gone, *(one for one in came if one is not None)]

    def forget(self, workload: int) -> None:
        """Its cgroup or interface has gone."""
        self.wishes.drop(workload)
        self.assigning.identities.forget(workload)
        self.failures.pop(workload, None)
        self._release(workload)

    def forget_replaced(self) -> None:
        """What was asked for interfaces that have gone while no agent ran, and whose numbers others have now."""
        for workload in [one for one in self.wishes.ids() if is_interface(one)]:
            if self.roll.interfaces.is_another(workload, self.wishes.of(workload, "").cgroup):
                self.forget(workload)

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
            if is_interface(workload):  # with what was said of its guest before; or it is let go again
                self._settle(workload)
            raise

    def retry(self) -> tuple[int, ...]:
        """Interfaces that could not be judged by their policies, once more; those that are now."""
        return self.settle([one for one in self.failures if is_interface(one)])

    @property
    def has_guests_unjudged(self) -> bool:
        """Whether somebody behind an interface is not under what he should be under."""
        return any(map(is_interface, self.failures))

    @property
    def is_settled(self) -> bool:
        """Whether every workload is under what it should be under."""
        return self.is_known and not self.failures

    def release_left(self) -> None:
        """What an agent before this one judged and nobody wants any more. Where that cannot be known, it stays."""
        for workload in [*self.enforcer.left, *self.roll.interfaces.left]:
            is_wanted = workload in self.failures or not self.is_known
            if self.roll.path_of(workload) is None or not is_wanted:
                self._release(workload)

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

    def expire(self, wall_ns: int, now_ns: int) -> tuple[int, ...]:
        """Ends registrations, sessions, allowances and modes whose time has come; the workloads that this changed."""
        changed = []
        for workload in self.wishes.ending(wall_ns, now_ns):
            wish = self.wishes.of(workload, "")
            kept = _without_what_ended(wish, wall_ns, now_ns)
            if kept != wish:
                self.wishes.hold(workload, kept)
                changed.append(workload)
        return self.settle(changed)

    def heed_session_keys(self) -> tuple[int, ...]:
        """Other keys may sign sessions than before, perhaps; the workloads that this changed."""
        if not self.assigning.sessions.have_keys_changed():
            return ()
        return self.settle([one for one in self.wishes.ids() if self.wishes.of(one, "").session])

    def note_quarantine(self, workload: int, reason: str) -> bool:
        """The kernel may have put a workload into quarantine, by a limit; whether that is so, and news."""
        return self._heed_kernel(workload, reason) and self._settle(workload)

    def _heed_kernel(self, workload: int, reason: str = "a limit of its policy was exceeded") -> bool:
        """What a program decided is kept, as if it had been asked for: a change of policy must not lift it."""
        path = self.roll.path_of(workload)
        if path is None or not self.enforcer.is_quarantined(workload):
            return False
        wish = self.wishes.of(workload, path)
        if wish.override and wish.override.mode is Mode.QUARANTINE:
            return False
        self.wishes.hold(workload, replace(wish, override=Override(Mode.QUARANTINE, 0, reason, "the kernel")))
        return True

    def _settle(self, workload: int) -> bool:
        if self.roll.path_of(workload) is None:
            if workload in self.enforcer.bound or workload in self.wishes.ids():
                self.forget(workload)
            return False
        self._heed_kernel(workload)
        try:
            return self._put(workload)
        except (ExeatError, ValueError, OSError) as error:
            self.failures[workload] = f"{self.roll.path_of(workload)} stays as it was: {error}"
            return False

    def _put(self, workload: int) -> bool:
        if not self.shelf.given.is_whole and workload in self.enforcer.left:
            raise KernelError("what the plane sent last cannot be used, and may be what is stricter than the rest")
        assigned = self.assigning.assigned(workload)
        if assigned is None:
            return self._let_go(workload)
        path = self.roll.path_of(workload)
        if path is None:
            raise KernelError("it has gone")
        if not is_interface(workload) and not 0 < self.roll.census.level_of(path) <= ANCESTORS_MAX:
            raise KernelError(f"only cgroups 1 to {ANCESTORS_MAX} levels below the root are judged")
        self._follow(workload, path)
        wish = self.wishes.of(workload, path)
        registration = wish.registration
        name = self.assigning.name_of(workload)
        self.enforcer.call(workload, path, self.assigning.who(workload))
        self.roll.attend(workload, path, registration.guest if registration else None)
        changed = self.enforcer.put(workload, path, name, assigned.key, lambda: _united(assigned, name), wish.override)
        self.failures.pop(workload, None)
        return changed

    def _follow(self, workload: int, path: str) -> None:
        """An interface may be called something else than before."""
        bound = self.enforcer.bound.get(workload)
        if bound and bound.path != path:
            self.enforcer.release(workload)
        wish = self.wishes.of(workload, path)
        if wish.cgroup != path:
            self.wishes.hold(workload, replace(wish, cgroup=path))

    def _let_go(self, workload: int) -> bool:
        self.failures.pop(workload, None)
        if workload in self.enforcer.bound:
            self._release(workload)
            return True
        if workload not in self.enforcer.left and workload not in self.roll.interfaces.left:
            self.roll.leave(workload)  # it was attended, and could not be bound
        return False

    def _release(self, workload: int) -> None:
        self.roll.leave(workload)
        self.enforcer.release(workload)


def _united(assigned: Assigned, name: str) -> United:
    united = unite(assigned.policies, name)
    rules = tuple(allowed_rule(allowance) for allowance in assigned.allowances)
    policy = replace(united.policy, rules=united.policy.rules + rules)
    if rules and policy.expires:  # an allowance given to an expired policy's workload is meant to open
        policy = replace(policy, expires=max(policy.expires, *(rule.expires for rule in rules if rule.expires)))
    return United(policy, united.origins + ("",) * len(rules))


def _without_what_ended(wish: Wish, wall_ns: int, now_ns: int) -> Wish:
    registration, override, session = wish.registration, wish.override, wish.session
    if registration and 0 < registration.until_ns <= wall_ns:
        registration = None
    if override and 0 < override.until_ns <= now_ns:
        override = None
    if session and session.is_over(wall_ns, now_ns):
        session = session.ended()
    allowances = tuple(one for one in wish.allowances if one.until_ns > wall_ns)
    return replace(wish, registration=registration, override=override, session=session, allowances=allowances)


def wall_of(boot: int) -> int:
    """A time of the boot clock on the wall clock."""
    return boot + clock_offset_ns()
