"""What a workload should be under: the policies that fit it, those it was registered with, and what was allowed.

Belongs to the control loop.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from exeat.agent.identities import Identities
from exeat.agent.interface_ids import is_interface
from exeat.agent.roll import Roll
from exeat.agent.sessions import Sessions
from exeat.agent.shelf import Shelf
from exeat.agent.wishes import Allowance, Registration, Wishes
from exeat.core.assign import Candidate, Roster, is_cgroup_match, is_for_node
from exeat.core.policy_file import read_policy
from exeat.core.union import effective_mode
from exeat.core.who_text import labels_of, name_from, who_of
from exeat.kernel.instance import own_build
from exeat.model.identity import Session, Who
from exeat.model.policy import Mode, Policy, Subject

NOBODYS = "no-policy"  # of a managed workload that no policy fits: it denies everything
_STRICT = (Mode.ENFORCE, Mode.QUARANTINE)  # the stricter one last
_OWN_MAX = 256  # policies of registrations; beyond, those of the ones that have gone are forgotten


@dataclass(frozen=True, slots=True)
class Assigned:
    """The policies of a workload, and how its table set is known."""

    policies: tuple[Policy, ...]
    allowances: tuple[Allowance, ...]
    key: str


class Assigning:
    """The policies are those on the shelf; what is known of a workload, its registration and its runtime have told."""

    def __init__(
        self, shelf: Shelf, wishes: Wishes, roll: Roll, identities: Identities, sessions: Sessions,
        node_labels: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.identities = identities
        self.sessions = sessions
        self.own = ""  # the agent's own cgroup, which nobody judges: it would cut itself off
        self.clock_changes = 0  # ends are reckoned anew when the wall clock was set
        self._shelf = shelf
        self._wishes = wishes
        self._roll = roll
        self._node_labels = node_labels
        self._roster = Roster(())
        self._may_ask: list[Policy] = []
        self._own: dict[str, Policy] = {}  # policies of registrations, by text
        self._build = own_build()

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be with what is known of workloads."""
        is_denied = any(policy.mode in _STRICT for policy in self._asking())
        return [*self.identities.complaints, *(self.identities.unknown() if is_denied else [])]

    def arrange(self, policies: Iterable[Policy]) -> None:
        """Other policies are in force."""
        policies = tuple(policies)
        self._roster = Roster(policies)
        self._may_ask = [one for one in policies if _may_be_for_containers(one.subject, self._node_labels)]

    def assigned(self, workload: int) -> Assigned | None:
        """What a cgroup or interface should be under; None: it is nobody's workload."""
        path = self._roll.path_of(workload)
        if path is None or (path == self.own and path != "/"):
            return None
        wish = self._wishes.of(workload, path)
        registration = wish.registration
        name = self.name_of(workload)
        held = self._shelf.in_force
        fitting = self._roster.policies_of(self._candidate(workload, path))
        session = self.session_of(workload)
        found = {policy.name: _for_its_time(policy, held[policy.name].revision, session) for policy in fitting}
        for wanted in registration.policies if registration else ():
            if wanted in held and (policy := held[wanted].policy):
                found[wanted] = (policy, held[wanted].revision)
        if registration and registration.policy_text:
            own = self._own_policy(registration)
            text_hash = hashlib.sha256(registration.policy_text.encode()).hexdigest()
            found[own.name] = (own, text_hash)
        mode = _strictest(mode for one, mode in self._undecided(workload, path, name) if one.name not in found)
        if not found:
            is_managed = not wish.is_empty or self._roll.is_managed(path)
            mode = Mode.ENFORCE if is_managed or mode in _STRICT else mode  # without a rule the one is the other
            if mode is None:
                return None
            found[NOBODYS] = (Policy(NOBODYS, reason="no policy fits this workload", mode=mode), "")
        elif mode in _STRICT and not _as_strict_as(mode) & {effective_mode(one, name) for one, _ in found.values()}:
            found[NOBODYS] = (Policy(NOBODYS, reason="a stricter policy may be for this workload", mode=mode), "")
        policies = tuple(found[one][0] for one in sorted(found))
        parts = [(one, found[one][1], effective_mode(found[one][0], name)) for one in sorted(found)]
        allowances = [(one.id, one.destination, one.until_ns) for one in wish.allowances]
        key = json.dumps([parts, allowances, self._build, self.clock_changes])
        return Assigned(policies, wish.allowances, hashlib.sha256(key.encode()).hexdigest())

    def name_of(self, workload: int) -> str:
        """What people call it: as it was registered, as its container is called, else where it is."""
        path = self._roll.path_of(workload) or ""
        registration = self._wishes.of(workload, path).registration
        return registration.name if registration else name_from(self.identities.of(workload, path)) or path

    def why_unknown(self, workload: int) -> str:
        """Why it is not decided which policies fit; empty: it is."""
        if why := self.identities.why_unknown(workload):
            return why
        bound_by = self._doubtful(workload, self._roll.path_of(workload) or "")
        names = ", ".join(sorted({policy.name for policy in bound_by} - self._fitting(workload)))
        return f"the image brings labels that select {names}, and they do not count: set others" if names else ""

    def labels_of(self, workload: int) -> dict[str, str]:
        """All of them."""
        path = self._roll.path_of(workload) or ""
        registration = self._wishes.of(workload, path).registration
        return labels_of(self.identities.of(workload, path), registration.labels if registration else {})

    def session_of(self, workload: int) -> Session | None:
        """Its session context, while that holds."""
        return self.sessions.said_by(self._wishes.of(workload, "").session)

    def names_of(self, workload: int, registered: str) -> tuple[str, ...]:
        """For one of these a session context must be to be for this workload. `registered`: its name, if it has one."""
        path = self._roll.path_of(workload) or ""
        identity = self.identities.of(workload, path)
        container = identity.container.id if identity and identity.container else ""
        pod = identity.pod.uid if identity and identity.pod else ""
        return tuple(one for one in (registered, path, container, pod) if one)

    def who(self, workload: int) -> Who:
        """What its verdicts carry of its names."""
        path, name = self._roll.path_of(workload) or "", self.name_of(workload)
        identity = self.identities.of(workload, path)
        return who_of("" if name == path else name, path, identity, self.session_of(workload), self.labels_of(workload))

    def _fitting(self, workload: int) -> set[str]:
        path = self._roll.path_of(workload) or ""
        return {policy.name for policy in self._roster.policies_of(self._candidate(workload, path))}

    def _candidate(self, workload: int, path: str) -> Candidate:
        identity = self.identities.of(workload, path)
        is_guest = is_interface(workload)
        return Candidate(
            cgroup="" if is_guest else path,
            interface=path if is_guest else "",
            labels=self.labels_of(workload),
            node_labels=self._node_labels,
            images=(identity.container.image, *identity.container.images) if identity and identity.container else (),
            pod=identity.pod if identity else None,
            session=self.session_of(workload),
        )

    def _undecided(self, workload: int, path: str, name: str) -> list[tuple[Policy, Mode]]:
        """Policies that may be for it, and how strict they are: so is the wall behind which it waits.

        Nobody has said yet who is in a container, while these ask for that; or its image has a say in it.
        """
        if self.identities.is_awaited(workload, path):  # its name, by which a roll-out goes, is not known either
            return [(one, one.mode) for one in self._asking() if _could_be_at(one.subject, path)]
        return [(one, effective_mode(one, name)) for one in self._doubtful(workload, path)]

    def _doubtful(self, workload: int, path: str) -> tuple[Policy, ...]:
        """Policies that would fit if the labels counted that the container's image brings as well.

        Nobody can tell who meant them. Who makes images may neither choose a policy nor be without one by that.
        """
        identity = self.identities.of(workload, path)
        doubtful = dict(identity.container.doubtful) if identity and identity.container else {}
        if not doubtful:
            return ()
        candidate = self._candidate(workload, path)
        return self._roster.policies_of(replace(candidate, labels=doubtful | dict(candidate.labels)))

    def _asking(self) -> list[Policy]:
        """Policies of which it is not decided, before a container's runtime has told who it is, whether they fit.

        Where no runtime has ever listened, labels are meant for what is registered.
        """
        if self.identities.has_listeners:
            return self._may_ask
        return [policy for policy in self._may_ask if policy.subject.is_for_containers]

    def _own_policy(self, registration: Registration) -> Policy:
        text = registration.policy_text
        if text not in self._own:
            if len(self._own) >= _OWN_MAX:
                every = (self._wishes.of(number, "").registration for number in self._wishes.ids())
                used = {one.policy_text for one in every if one}
                self._own = {known: policy for known, policy in self._own.items() if known in used}
            self._own[text] = read_policy(text, f"the policy of {registration.name}").policy
        policy = self._own[text]
        is_taken = policy.name in self._shelf.in_force
        return replace(policy, name=f"{registration.name}:{policy.name}") if is_taken else policy


def _strictest(modes: Iterable[Mode]) -> Mode | None:
    """Of a wall in place of policies in these; None: there is none of them."""
    modes = set(modes)
    if not modes:
        return None
    return next((one for one in reversed(_STRICT) if one in modes), Mode.MONITOR)


def _as_strict_as(mode: Mode) -> set[Mode]:
    return set(_STRICT[_STRICT.index(mode) :])


def _for_its_time(policy: Policy, revision: str, session: Session | None) -> tuple[Policy, str]:
    """What a session context opens the kernel closes with it, also when no agent runs."""
    if session is None or not policy.subject.session:
        return policy, revision
    end = datetime.fromtimestamp(session.until_ns / 1e9, UTC)
    return replace(policy, expires=min(policy.expires or end, end)), f"{revision} until {session.until_ns}"


def _may_be_for_containers(subject: Subject, node_labels: Mapping[str, str]) -> bool:
    """On this node."""
    return subject.may_be_for_containers and not subject.interfaces and is_for_node(subject, node_labels)


def _could_be_at(subject: Subject, cgroup: str) -> bool:
    """Whether it is for a container there, if that is the right one."""
    return not subject.cgroups or any(is_cgroup_match(pattern, cgroup) for pattern in subject.cgroups)
