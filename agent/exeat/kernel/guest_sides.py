"""The two hooks of an interface, and what its programs are called there."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Side:
    """One of them. Numbers of linux/bpf.h and linux/pkt_sched.h."""

    word: str  # as the guest sees it
    program: str
    tcx: int  # BPF_TCX_INGRESS, BPF_TCX_EGRESS
    clsact: int  # TC_H_CLSACT with TC_H_MIN_INGRESS, TC_H_MIN_EGRESS


# What leaves the guest comes into the host: that one first, as nothing may leave unjudged.
SIDES = (Side("out", "on_guest_out", 46, 0xFFFFFFF2), Side("in", "on_guest_in", 47, 0xFFFFFFF3))
