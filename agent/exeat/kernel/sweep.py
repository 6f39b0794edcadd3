"""After a change of policy, and at a workload's end: cuts the open connections that nothing allows any more."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing

from exeat.kernel.abi import Outcome, Stamp
from exeat.kernel.instance import Instance
from exeat.kernel.sockets import Diagnosis, OpenSocket
from exeat.kernel.tables import Tables
from exeat.model.networks import MAPPED_PREFIX


def destination(stamp: Stamp) -> tuple[int, bytes, int] | None:
    """Protocol, address and port that a stamp allows; None: none yet."""
    low = stamp.destination & 0xFFFFFFFF
    if low == 0:
        return None
    return low >> 16, bytes(stamp.address), int.from_bytes((low & 0xFFFF).to_bytes(2, "little"), "big")


def cut_revoked(instance: Instance, tables: Tables, cgroup: int, policy_id: int) -> int:
    """The same for one workload, in this network namespace."""
    with closing(Diagnosis()) as diagnosis:
        return cut_revoked_of(instance, tables, {cgroup: policy_id}, [diagnosis])


def cut_revoked_of(
    instance: Instance, tables: Tables, policy_ids: Mapping[int, int], diagnoses: Iterable[Diagnosis]
) -> int:
    """Ends those of the workloads' sockets whose destination their policy no longer allows; returns how many.

    Idle ones too: a packet of theirs would be dropped anyway, but their programs would wait for ever.
    """

    def is_revoked(one: OpenSocket) -> bool:
        policy_id = policy_ids.get(one.stamp.workload)
        if policy_id is None:
            return False
        to = destination(one.stamp)
        if to is None or (one.stamp.rule_id == 0 and _is_loopback(to[1])):  # own loopback needs no rule
            return False
        protocol, address, port = to
        answer = tables.ask(policy_id, protocol, address, port, name=one.name, is_established=True)
        return answer.outcome is Outcome.DENY

    return _cut(instance, is_revoked, diagnoses)


def cut_all(instance: Instance, cgroup: int) -> int:
    """Ends every socket of a workload: what is still queued in it would leave unjudged once the programs are gone."""
    with closing(Diagnosis()) as diagnosis:
        return _cut(instance, lambda one: one.stamp.workload == cgroup, [diagnosis])


def _cut(instance: Instance, is_over: Callable[[OpenSocket], bool], diagnoses: Iterable[Diagnosis]) -> int:
    return sum(diagnosis.destroy(one) for diagnosis in diagnoses for one in diagnosis.stamped(instance) if is_over(one))


def _is_loopback(address: bytes) -> bool:
    return address == bytes(15) + b"\x01" or address.startswith(MAPPED_PREFIX + b"\x7f")
