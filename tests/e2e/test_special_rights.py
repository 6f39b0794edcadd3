"""What a workload with special rights can do, as docs/threat-model.md says: each a way out, beside a twin that is none.

They run as root in a managed cgroup with all of root's capabilities. `exeat run` takes them away, and a container's
runtime most of them. What is shown here is why they must.
"""

import ctypes
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from bed import Bed, Host, call_in
from bed.frames import DATA, frame_to, send_frame
from e2e.escapes import dial, dropped, judged, post, rules, says
from e2e.guard import Guard, rule
from exeat.kernel.instance import Instance
from exeat.kernel.tables import Tables
from exeat.model.verdicts import Reason

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13  # linux/capability.h
PR_CAPBSET_DROP = 24  # linux/prctl.h
_REWRITE = """\
table netdev rewrite {{
  chain out {{
    type filter hook egress device "uplink" priority 0;
    ip daddr {allowed} udp dport 5000 ip daddr set {denied}
  }}
}}
"""
NOT_TO_DENIED = dropped(Reason.ADDRESS_NOT_ALLOWED)


def without(capability: int, function: Callable[[], Any]) -> Callable[[], Any]:
    """The function, as a process that has not this right: as a container's runtime starts one."""

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

    def drop() -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0  # what it executes gets it back otherwise
        header, words = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()  # _LINUX_CAPABILITY_VERSION_3
        assert libc.capget(ctypes.byref(header), words) == 0
        for kind in range(3):
            words[kind] &= ~(1 << capability)
        assert libc.capset(ctypes.byref(header), words) == 0
        return function()

    return drop


def soon(is_so: Callable[[], bool]) -> bool:
    """Whether it comes to be so."""
    until = time.monotonic() + 5
    while not is_so() and time.monotonic() < until:
        time.sleep(0.01)
    return is_so()


def test_who_may_send_frames_gets_past_a_cgroups_policy_and_without_the_right_nobody_does(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """CAP_NET_RAW, which containers of Docker have unless it is dropped."""
    with guard.workload(*rules(good)) as w:
        with judged(w, NOT_TO_DENIED):
            assert call_in(bed, lambda: post(evil.address4), cgroup=w.cgroup) == "EPERM"
        assert (
            call_in(bed, without(CAP_NET_RAW, lambda: send_frame(frame_to(evil.address4))), cgroup=w.cgroup) == "EPERM"
        )
        assert evil.count().is_untouched
        assert call_in(bed, lambda: send_frame(frame_to(evil.address4)), cgroup=w.cgroup) == "sent"
        assert soon(lambda: evil.datagrams() == [DATA])
        assert w.told() == []


def rewrite(allowed: str, denied: str) -> str:
    """Has every packet for one address go to another, behind the last hook."""
    text = _REWRITE.format(allowed=allowed, denied=denied)
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stderr or "rewritten"


def test_who_rules_its_network_can_rewrite_what_was_judged_and_without_the_right_nobody_can(
    guard: Guard, bed: Bed, good: Host, evil: Host
) -> None:
    """CAP_NET_ADMIN over the network namespace that it lives in."""
    allowed = rule(f"{good.address4}/32", ports=(5000,), protocol="udp")
    with guard.workload(allowed) as w:
        try:
            said = call_in(bed, without(CAP_NET_ADMIN, lambda: rewrite(good.address4, evil.address4)), cgroup=w.cgroup)
            assert "not permitted" in said
            assert call_in(bed, lambda: post(good.address4), cgroup=w.cgroup) == says(good)
            assert evil.count().is_untouched
            said = call_in(bed, lambda: rewrite(good.address4, evil.address4), cgroup=w.cgroup)
            if said != "rewritten":
                pytest.skip(f"this kernel has no netdev egress chains: {said}")
            call_in(bed, lambda: post(good.address4), cgroup=w.cgroup)
            assert soon(lambda: evil.datagrams() == [b"datagram"])
        finally:
            bed.network.client.command("sh", "-c", "nft delete table netdev rewrite 2>/dev/null || true")


def test_who_may_write_the_kernels_tables_lets_itself_go(guard: Guard, bed: Bed, good: Host, evil: Host) -> None:
    """CAP_BPF, and a BPF file system in sight: `exeat run` hides it."""

    def let_go() -> Any:
        Tables(Instance(guard.instance.name)).unbind(os.stat(w.cgroup).st_ino)
        return dial(evil.address4)

    with guard.workload(*rules(good)) as w:
        with judged(w, NOT_TO_DENIED):
            assert call_in(bed, lambda: dial(evil.address4), cgroup=w.cgroup) == "EPERM"
        assert evil.count().is_untouched
        assert call_in(bed, let_go, cgroup=w.cgroup) == says(evil, b"hello")
