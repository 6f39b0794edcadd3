"""The programs of interfaces with some defences taken out: what no attack gets through then, no test stands for.

Each mutation names what it removes, and where. A text that is not there any more is an error, so that no mutation
quietly stops mutating. One instance is loaded with one text after the other: compiling takes seconds.
"""

from __future__ import annotations

from unittest import mock

from e2e.mutants import Mutation
from exeat.kernel.guest_hooks import guest_text
from guest.stage import GuestGuard


def _without(removes: str, *texts: tuple[str, str]) -> Mutation:
    return Mutation(removes, texts)


MUTATIONS = {
    # Who sends a frame, and to whom
    "source mac": _without(
        "look_at_frame: a frame may come from any link address",
        ("  if (!is_guests_mac(interface, guest, link.h_source))\n", "  if (0)\n"),
    ),
    "source address": _without(
        "look_at_frame: a packet may come from any address",
        (
            "  ret->reason = is_guests(skb->ifindex, interface, guest, ret->flow.source) ? 0 : SPOOFED;",
            "  ret->reason = 0;",
        ),
    ),
    "gateway's mac": _without(
        "look_at_frame: a frame may be for anybody on the link",
        ("  if (link.h_dest[0] & 1 ? !is_to_many : !is_gateways_mac(interface, link.h_dest))\n", "  if (0)\n"),
    ),
    "learnt once": _without(
        "take_for_guest: a guest learns as many addresses as it likes",
        ("  if (*learnt >= most)\n", "  if (0)\n"),
    ),
    "another's": _without(
        "take_for_guest: an address may be two guests'",
        ("  if (!is_link_local(address) && !take(index, address, 0))\n", "  if (0)\n"),
    ),
    "arp": _without(
        "refuse_arp: who asks may have any address",
        ("  if (!is_guests(skb->ifindex, interface, guest, sender))\n", "  if (0)\n"),
    ),
    "neighbours": _without(
        "refuse_neighbour: who asks may have any address",
        ("  if (!is_unnamed && !is_guests(index, interface, guest, packet->flow.source))\n", "  if (0)\n"),
    ),
    "dhcp": _without(
        "refuse_dhcp: a guest whose address was said may ask for another",
        ("  if (!interface->allows_dhcp || ", "  if ("),
    ),
    "icmp": _without(
        "judge_guest and on_guest_out: who may ping may send any message of ICMP",
        (" && !is_ordinary_icmp(skb))", " && 0)"),
        (" || is_ordinary_icmp(skb))", " || 1)"),
    ),
    "ip options": _without(
        "read_v4: a packet's options are not seen",
        ("  else if (header.ihl > 5)\n", "  else if (0)\n"),
    ),
    "fragments": _without(
        "read_v4: a fragment is read as if it were all",
        ("  else if (header.frag_off & bpf_htons(0x3fff))\n", "  else if (0)\n"),
    ),
    "length": _without(
        "refuse_length: what stands behind the packet in its frame is read with it",
        ("  if (length == skb->len)\n    return 0;", "  return 0;"),
    ),
    "card": _without(
        "refuse_sum_place: the card writes a checksum wherever the guest says",
        ("  if (!is_summed_later(skb))\n    return 0;\n", "  return 0;\n"),
    ),
    # Which segments a server takes for what was read
    "copies": _without(
        "judge_bytes: what is held may be said again with other bytes",
        ("  if (!is_copy(hold, span->offset, on->scratch, span->known)) {", "  if (0) {"),
    ),
    "checksum": _without(
        "is_sum_right: a segment that the server will drop is read",
        (
            "  if (is_summed_later(skb))\n    return 1;\n  if (bpf_skb_load",
            "  if (1)\n    return 1;\n  if (bpf_skb_load",
        ),
    ),
    "hops": _without(
        "set_hops: a segment that dies on its way is read",
        (
            "  if (skb->protocol == bpf_htons(ETH_P_IPV6)) {\n    bpf_skb_store_bytes(skb, ETH_HLEN + 7",
            "  return;\n  if (skb->protocol == bpf_htons(ETH_P_IPV6)) {\n    bpf_skb_store_bytes(skb, ETH_HLEN + 7",
        ),
    ),
    "timestamp": _without(
        "refuse_order: a segment older than the last one is read",
        ("is_before(segment->stamped, flow->last_stamp))", "0)"),
    ),
    "acknowledgement": _without(
        "refuse_order: a segment that acknowledges what was never sent is read",
        ("      is_before(untagged(flow->peer_next, flow->first, peer_first), segment->ack))", "      0)"),
    ),
    "no acknowledgement": _without(
        "refuse_order: a segment without ACK is read",
        ("  if (!(segment->flags & ACK) || is_before(segment->ack, acked) ||", "  if ("),
    ),
    "tcp options": _without(
        "refuse_order: a segment with an option that servers read differently is read",
        ("  if (segment->is_odd)\n    return TCP_OPTION;", ""),
    ),
    "order": _without(
        "refuse_order and judge_bytes: what is ahead of what was read passes",
        ("  return is_before(next, segment->seq) ? OUT_OF_ORDER : 0;", "  return 0;"),
        (
            (
                "  if (span->offset > span->held || span->held > HOLD_BYTES) /* also what begins before the"
                " hold: it wraps around */\n    return FATE_DROP;"
            ),
            "  if (span->offset > span->held || span->held > HOLD_BYTES)\n    return FATE_PASS;",
        ),
    ),
    "behind the hello": _without(
        "walk_held: another hello behind the first is what it likes",
        (
            "  if (flight == FLIGHT_HELLO || flight == FLIGHT_REFUSED) {\n    on->seen->at",
            "  if (0) {\n    on->seen->at",
        ),
    ),
    "acknowledged": _without(
        "note_peer and release_acknowledged: whatever the server acknowledges, it has all of it",
        ("  if (!(flow->flags & FLOW_HELD) || is_before(ack, flow->next) ||", "  if (!(flow->flags & FLOW_HELD) ||"),
        (
            "  if (flow->flags & FLOW_HELD && !is_before(acked_of(flow), flow->next)) {",
            "  if (flow->flags & FLOW_HELD) {",
        ),
    ),
    # When a connection begins and ends
    "syn data": _without(
        "judge_guest: bytes in a SYN are nobody's business",
        ("  else if (ret->outcome == ASK_NAME && asking->is_first && packet->flow.payload)", "  else if (0)"),
    ),
    "syn again": _without(
        "judge_again_first: a SYN that comes again may bring what it likes",
        ("  if (on->packet.flow.payload || !may_be_again(flow) ||", "  if (0 && !may_be_again(flow) ||"),
    ),
    "answered": _without(
        "refuse_order: before the server has answered, data pass",
        ("  if (!is_answered(flow)) /* a reset", "  if (!is_answered(flow) && segment->flags & RST) /* a reset"),
        (
            (
                "  if (!(segment->flags & ACK) || is_before(segment->ack, acked) ||\n"
                "      is_before(untagged(flow->peer_next, flow->first, peer_first), segment->ack))"
            ),
            "  if (0)",
        ),
    ),
    "late answer": _without(
        "note_answer: an answer to the connection before is one to this",
        ("  if (flow->flags & FLOW_SHUNS && flow->shunned == segment->seq + 1)\n", "  if (0)\n"),
    ),
    "ended": _without(
        "refuse_order and pass_settled: a connection that has ended goes on",
        ("  if (payload && !flow->stamp.is_lenient && has_ended(flow, now_ns))\n", "  if (0)\n"),
        ("      if (has_ended(flow, now_ns))\n", "      if (0)\n"),
    ),
    "generation": _without(
        "is_settled: what was allowed under an earlier policy stays so",
        (" || stamp->generation != generation)\n    return 0;", ")\n    return 0;"),
    ),
    "flows": _without(
        "take_new_place: a guest has as many connections as it likes",
        ("    if (at.place >= GUEST_FLOWS)\n", "    if (0)\n"),
    ),
    # The gate, and what was resolved
    "question": _without(
        "on_guest_out and refuse_port: a question goes where the guest says",
        ("    if (is_question(&packet.flow)) {\n", "    if (0) {\n"),
        ("  switch (bpf_ntohs(flow->port)) {\n  case 53:", "  switch (0) {\n  case 53:"),
    ),
    "gates": _without(
        "on_guest_out: another's gate is a service like any other",
        ("    } else if (is_gates_address(interface, packet.flow.address)) {", "    } else if (0) {"),
    ),
    "gate's port": _without(
        "is_gate_there: whoever has the gate's port is the gate",
        ("  is_gate = sk->priority == GATE_PRIORITY;", "  is_gate = 1;"),
    ),
    "ungranted": _without(
        "judge_granted: an address that no name was resolved to is open",
        ("  if (!address) {\n", "  if (!address) {\n    ret->outcome = ALLOW;\n"),
    ),
    "elsewhere": _without(
        "judge_grant: a name is allowed at an address that another one was resolved to",
        (
            "  if (!grant)\n    return deny(ret, refuse_ungranted(policy_id, name));",
            "  if (!grant) {\n    ret->outcome = ALLOW;\n    ret->until_ns = NEVER;\n    return;\n  }",
        ),
    ),
}


def mutated_text(*names: str) -> str:
    """The C text without these defences."""
    text = guest_text()
    for name in names:
        for old, new in MUTATIONS[name].texts:
            if old not in text:
                raise LookupError(f"the mutation {name!r} has lost its place: bpf/ no longer says {old!r}")
            text = text.replace(old, new)
    return text


class MutantGuard(GuestGuard):
    """An instance beside the session's, whose programs lack what `lack` was told last."""

    def __init__(self, *names: str) -> None:
        self._lacks = names
        with mock.patch("exeat.kernel.guest_hooks.guest_text", return_value=mutated_text(*names)):
            super().__init__()

    def lack(self, *names: str) -> None:
        """Swaps the programs, unless they lack just that."""
        if names == self._lacks:
            return
        with mock.patch("exeat.kernel.guest_hooks.guest_text", return_value=mutated_text(*names)):
            self.hooks.load()
        self._lacks = names
