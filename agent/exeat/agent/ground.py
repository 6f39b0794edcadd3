"""What a fleet's node stands on: the shelf, the kernel and the workloads of this host. Belongs to the control loop."""

import time
from collections.abc import Mapping
from dataclasses import replace

from exeat.agent.application import Application
from exeat.agent.bundles import Bundle
from exeat.agent.fleet_parts import Enforced, Health
from exeat.agent.shelf import Given, Held
from exeat.agent.views import workload_state
from exeat.agent.vitals import Vitals
from exeat.dns.gate import boot_ns
from exeat.errors import ExeatError
from exeat.v1 import plane_pb2 as pb


class HostGround:
    """The real one."""

    def __init__(self, application: Application, vitals: Vitals) -> None:
        self._application = application
        self._host = application.host
        self._vitals = vitals
        self._states: dict[int, tuple[object, pb.WorkloadState]] = {}  # and what each was made of

    def enforce(self, bundle: Bundle) -> Enforced:
        """Returns once the kernel judges by it. Where it raises, all is as it was before."""
        began = time.monotonic()
        shelf = self._host.shelf
        before = shelf.given
        has_changed = shelf.give(Given(held_of(bundle))) or not before.is_whole
        try:
            switched = self._application.apply(began) if has_changed else 0
        except Exception:  # a mistake of ours too: it is told as a NACK, and what held before must hold again
            shelf.give(before)
            self._application.apply(time.monotonic())
            raise
        self._host.release_left()
        return Enforced(switched, tuple(self._host.failures.values()))

    def states(self) -> Mapping[str, pb.WorkloadState]:
        """Every workload by name."""
        bound, now_ns = self._host.enforcer.bound, boot_ns()
        for workload in [one for one in self._states if one not in bound]:
            del self._states[workload]
        for workload, one in bound.items():
            wish = self._host.wishes.of(workload, "")
            made_of = (one.name, one.table_set.key, one.override, one.mode(now_ns), one.since_ns, wish)
            known = self._states.get(workload)
            if known is None or known[0] != made_of:
                try:
                    self._states[workload] = (made_of, workload_state(one, self._host))
                except ExeatError:  # its own policy cannot be read: a complaint says so
                    continue
        return {state.name: state for _, state in self._states.values()}

    def state_of(self, text: str) -> pb.WorkloadState | None:
        """The one workload that somebody means."""
        found = self._host.named(text)
        return workload_state(self._host.enforcer.bound[found[0]], self._host) if len(found) == 1 else None

    def health(self) -> Health:
        """For the beats."""
        count = len(self._host.enforcer.bound)
        try:
            return Health(count, self._vitals.lost_events(), tuple(self._vitals.complaints()))
        except ExeatError as error:
            return Health(count, 0, (str(error),))


def held_of(bundle: Bundle) -> tuple[Held, ...]:
    """As the shelf takes it. On which nodes a policy holds, the plane has decided: it may know other labels of ours."""
    return tuple(
        Held(
            file="",
            policy=replace(document.policy, subject=replace(document.policy.subject, nodes=())),
            revision=document.revision,
            warnings=document.warnings,
            accepted_ns=bundle.taken_ns,
        )
        for document in bundle.documents
    )
