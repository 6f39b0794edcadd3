"""The enforcer with one defence taken out: if an escape test still passes then, the test is worth nothing.

Each mutation names what it removes, and where. Where two layers stop the same thing, the mutation removes both and says
so. A text that is not there any more is an error, so that no mutation quietly stops mutating.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from e2e.guard import Guard, Told
from exeat.errors import KernelError
from exeat.kernel.events import EventRing
from exeat.kernel.filesystems import mount_point
from exeat.kernel.instance import Instance, instances, remove_instance
from exeat.kernel.source import joined_source
from exeat.kernel.tables import Tables


@dataclass(frozen=True)
class Mutation:
    """One defence: `texts` are taken out of the C source, wherever they stand, for what follows them."""

    removes: str
    texts: tuple[tuple[str, str], ...]


_LOOPBACK = (
    "  if ((ret->outcome == DENY || flow->protocol == IPPROTO_UDP) && is_loopback(flow->address) && "
    "standing->reason == 0) {"
)

MUTATIONS = {
    "backstop": Mutation(
        "on_packet_out: every packet of a managed workload passes",
        (("  read_packet(skb, 0, &packet);\n  if (skb->ifindex", "  return PACKET_PASS;\n  if (skb->ifindex"),),
    ),
    "kinds": Mutation(
        "on_socket: raw, MPTCP, UDP-Lite and ping sockets are made",
        (("  judgement.reason = refuse_socket(", "  judgement.reason = 0 & refuse_socket("),),
    ),
    "options": Mutation(
        "on_option: every socket option is taken",
        (("  if (!is_refused)\n    return 1;", "  return 1;"),),
    ),
    "address": Mutation(
        "is_settled: a port that was allowed at one address is allowed at all",
        (("  same = is_same_address(stamp->address, flow->address);", "  same = 1;"),),
    ),
    "generation": Mutation(
        "is_settled: what was allowed under an earlier policy stays so",
        ((" || stamp->generation != generation)\n    return 0;", ")\n    return 0;"),),
    ),
    "expiry": Mutation(
        "is_settled: what was allowed stays so when its time has come",
        (("  return stamp->until_ns == NEVER || bpf_ktime_get_boot_ns() < stamp->until_ns;", "  return 1;"),),
    ),
    "foreign": Mutation(
        "may_use: a socket that was made for nobody is nobody's, whoever uses it",
        (("    *ret_workload = of_task;\n    return 0;", "    *ret_workload = 0;\n    return 1;"),),
    ),
    "loopback": Mutation(
        "loopback_owner: every service on loopback is one's own (asked by connect, sendto and the backstop)",
        (("  if (stamp && stamp->workload == workload)", "  if (1)"),),
    ),
    "reconnect": Mutation(
        "judge_destination: a socket that was verified once stays verified (the stamp; and the backstop's step count)",
        (
            (
                "    forget_destination(stamp);\n    stamp->is_lenient = standing.mode",
                "    state = stamp->state ? STATE_VERIFIED : STATE_HELLO;\n    stamp->is_lenient = standing.mode",
            ),
            (
                "set_destination(stamp, &standing, &judgement, flow, STATE_HELLO);\n    return PASSES; /* told once",
                "set_destination(stamp, &standing, &judgement, flow, state);\n    return PASSES; /* told once",
            ),
        ),
    ),
    "urgent": Mutation(
        "read_transport: the urgent flag is not seen",
        (("    ret->is_urgent = (header[13] & 0x20) != 0;", "    ret->is_urgent = 0;"),),
    ),
    "queue": Mutation(
        "three layers against bytes that on_message never saw: that it is in step with the send queue, that no segment "
        "ends beyond what passed, and that a segment once denied denies the connection",
        (
            ("  return write_seq - stamp->first_seq == stamp->passed;", "  return 1;"),
            ("(__s32)(packet->end_seq - stamp->first_seq - stamp->passed) > 0", "0"),
            ("  if (judgement.reason == UNVERIFIED_DATA && sk->state != TCP_LISTEN)", "  if (0)"),
        ),
    ),
    "unbound": Mutation(
        "on_packet_out: a socket whose workload is gone is nobody's",
        (("    if (workload == 0)\n      workload = stamp->workload;", ""),),
    ),
    "nested": Mutation(
        "nearest_workload: only the cgroup itself counts, not those above",
        (
            (
                "    if (bound)\n      found = bound->policy_id == SPARED ? 0 : cgroup;",
                "    found = bound ? cgroup : 0;",
            ),
        ),
    ),
    "quarantine": Mutation(
        "find_standing: quarantine is a mode like any other",
        (("  if (ret->mode == MODE_QUARANTINE)\n", "  if (0)\n"),),
    ),
    "closed ports": Mutation(
        "refuse_port: ports on which names are resolved are ports like any other",
        (("  switch (bpf_ntohs(flow->port)) {\n  case 53:", "  switch (0) {\n  case 53:"),),
    ),
    "question": Mutation(
        "is_question: what goes to port 53 goes where the program says",
        (("  return flow->port == bpf_htons(53) && (", "  return 0 && ("),),
    ),
    "device": Mutation(
        "on_packet_out: what is for loopback may leave by any device",
        (("  if (skb->ifindex != LOOPBACK_INDEX && is_loopback(packet.flow.address))\n", "  if (0)\n"),),
    ),
    "gate port": Mutation(
        "send_to_gate: whoever has the gate's port is the gate",
        (("  if (loopback_owner(ctx, flow, standing->workload) != OWNER_GATE) {", "  if (0) {"),),
    ),
    "gates": Mutation(
        "judge_loopback and judge_packet: another's gate is a service like any other",
        (
            ("  case OWNER_GATE:\n    return deny(ret, GATE_NOT_OWN);", "  case OWNER_GATE:\n    return;"),
            ("    if (owner == OWNER_GATE && !is_gate) {", "    if (0) {"),
        ),
    ),
    "ungranted": Mutation(
        "judge_granted: an address that no name was resolved to is open",
        (("  if (!address) {\n", "  if (!address) {\n    ret->outcome = ALLOW;\n"),),
    ),
    "grant end": Mutation(
        "judge_granted: an address stays open when its grant is over",
        (("    if (now_ns >= slot->until_ns && !is_established) {", "    if (0) {"),),
    ),
    "limit": Mutation(
        "is_beyond: one more than the limit",
        (("  return ((limit->max - count - amount) >> 63)", "  return ((limit->max + 1 - count - amount) >> 63)"),),
    ),
    "closing": Mutation(
        "quarantine: the workload's entry is left as it is",
        (("  if (!bound)\n    return;\n  closed.policy_id", "  if (1)\n    return;\n  closed.policy_id"),),
    ),
    "undeclared": Mutation(
        "judge_undeclared: a destination that no rule names is denied, and that is all",
        (("  if (!standing->quarantines_undeclared || ", "  if (1 || "),),
    ),
    "icmp": Mutation(
        "judge_packet: where an icmp rule opens one network, any address may be pinged",
        (
            (
                _LOOPBACK,
                "  if (flow->protocol == IPPROTO_ICMP) ret->outcome = ALLOW;\n" + _LOOPBACK,
            ),
        ),
    ),
}


def mutated_source(*names: str) -> str:
    """The C text without these defences."""
    text = joined_source()
    for name in names:
        for old, new in MUTATIONS[name].texts:
            if old not in text:
                raise LookupError(f"the mutation {name!r} has lost its place: bpf/ no longer says {old!r}")
            text = text.replace(old, new)
    return text


class MutantGuard(Guard):
    """A second instance beside the session's, on a cgroup of its own, without some defences."""

    def __init__(self, *removed: str) -> None:
        root = mount_point("cgroup2")
        assert root
        for left in instances():  # by a run that was killed; its processes and their cgroups are gone with it
            if left.startswith("mutant-") and not Path("/proc", left.split("-")[1]).exists():
                remove_instance(left)
        name = f"{os.getpid()}-{len(removed)}-{removed[0]}"
        self.top = root / f"exeat-mutant-{name}"
        self.instance = Instance(f"mutant-{name}")
        text = mutated_source(*removed)
        with mock.patch("exeat.kernel.instance.joined_source", return_value=text):
            try:
                self.instance.load()
            except KernelError:
                self.instance.remove()
                raise
        self.top.mkdir()
        self.instance.attach(self.top)
        self.tables = Tables(self.instance)
        self.ring = EventRing(self.instance.map("events"))
        self.backlog: list[Told] = []
        self._made = 0


@contextmanager
def without(*names: str) -> Iterator[Guard]:
    """The enforcer without these defences, from `with` to its end."""
    guard = MutantGuard(*names)
    try:
        yield guard
    finally:
        guard.close()
