"""Ids of guests among those of workloads: a bit that no cgroup's id has, and the interface's index."""

from exeat.kernel.guest_abi import INTERFACE_BIT


def is_interface(workload: int) -> bool:
    """Whether a workload is a guest behind an interface, and no cgroup."""
    return bool(workload & INTERFACE_BIT)


def index_of(workload: int) -> int:
    """The interface's."""
    return workload & ~INTERFACE_BIT


def workload_of(index: int) -> int:
    """The id that the guest behind an interface has among workloads."""
    return INTERFACE_BIT | index
