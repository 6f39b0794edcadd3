/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every frame to a guest: answers of the gate get their sender back, what servers acknowledge is noted, and connections
 * that the policy no longer allows are cut. Nothing else is kept from the guest. */
#pragma once

#include "guest_bytes.h"
#include "guest_gate.h"
#include "guest_link.h"

enum { BOOTP_REPLY = 2, DHCP_ACK = 5, BOOTP_AT = ETH_HLEN + 20 + 8, DHCP_OPTIONS_AT = BOOTP_AT + 236 };

/* What a DHCP server gives is the guest's, if it may take an address at all. */
static __always_inline void learn_lease(struct __sk_buff *skb, const struct interface *interface, struct guest *guest) {
  __u8 operation, options[7], hardware[6], given[4];
  __be32 address[4];

  if (bpf_skb_load_bytes(skb, BOOTP_AT, &operation, 1) || operation != BOOTP_REPLY ||
      bpf_skb_load_bytes(skb, BOOTP_AT + 16, given, 4) || bpf_skb_load_bytes(skb, BOOTP_AT + 28, hardware, 6) ||
      bpf_skb_load_bytes(skb, DHCP_OPTIONS_AT, options, sizeof(options)))
    return;
  if (options[4] != 53 || options[5] != 1 || options[6] != DHCP_ACK || !is_guests_mac(interface, guest, hardware))
    return;
  mapped(given, address);
  is_guests(skb->ifindex, interface, guest, address);
}

/* The server has taken the guest's first segment: only now can it take more. 0: it is the answer to an older one. */
static __always_inline bool note_answer(struct guest_flow *flow, const struct packet *packet,
                                        const struct segment *segment) {
  __u32 first = flow->first;

  if (flow->flags & FLOW_SHUNS && flow->shunned == segment->seq + 1)
    return 0;
  if (segment->ack != first || is_answered(flow))
    return 1;
  flow->peer_next = tagged(first, end_of(segment, packet));
  flow->acked = tagged(first, segment->ack);
  flow->answered = tagged(first, segment->seq + 1);
  return 1;
}

/* What was inspected is the server's: no other copy of it can come to matter. A hello's first part is still needed, as
 * its name is read from all of it, and so is the beginning of a record's header. */
static __always_inline void release_acknowledged(const struct flow_key *key, struct guest_flow *flow, __u32 ack) {
  if (!(flow->flags & FLOW_HELD) || is_before(ack, flow->next) || flow->stamp.state == STATE_HELLO)
    return;
  if (!lock_flow(key))
    return; /* a segment is being read: the next acknowledgement will do */
  if (flow->flags & FLOW_HELD && !is_before(acked_of(flow), flow->next)) {
    if (flow->stamp.state == STATE_SETTLING)
      flow->stamp.state = STATE_VERIFIED;
    if (flow->stamp.state == STATE_VERIFIED ||
        (flow->stamp.state == STATE_WATCHED && !is_before(flow->walked, flow->next)))
      drop_hold(key, flow);
  }
  unlock_flow(key);
}

/* A reset whose number is further from what the server last said is none of its own: ahead of it, or behind by what it
 * may have under way. */
enum { NEAR_AHEAD = 1 << 20, NEAR_BEHIND = 1 << 26 };

/* What the server says of its side. */
static __always_inline void note_peer(const struct flow_key *key, struct guest_flow *flow, const struct packet *packet,
                                      const struct segment *segment) {
  __u32 first = flow->first, end = end_of(segment, packet), next = untagged(flow->peer_next, first, end);
  __u32 told = peer_end_of(flow);

  if (!is_answered(flow))
    return;
  if (segment->flags & RST) {
    if (segment->seq - next + NEAR_BEHIND < NEAR_BEHIND + NEAR_AHEAD)
      flow->peer_end = tagged(first, told | PEER_RESET);
    return;
  }
  if (is_before(next, end))
    flow->peer_next = tagged(first, end);
  if (segment->flags & FIN && !(told & PEER_FIN)) {
    flow->peer_fin_ns = coarse_now();
    flow->peer_end = tagged(first, told | PEER_FIN);
  }
  if (!(segment->flags & ACK) || is_before(flow->sent, segment->ack))
    return;
  if (is_before(acked_of(flow), segment->ack))
    flow->acked = tagged(first, segment->ack);
  release_acknowledged(key, flow, segment->ack);
}

/* A packet to the guest, turned around: as if it left. */
static __always_inline void read_reversed(struct __sk_buff *skb, struct packet *packet, struct flow *ret) {
  read_packet(skb, ETH_HLEN, packet);
  copy_address(ret->address, packet->flow.source);
  copy_address(ret->source, packet->flow.address);
  ret->port = packet->flow.source_port;
  ret->source_port = packet->flow.port;
  ret->protocol = packet->flow.protocol;
}

int on_guest_in(struct __sk_buff *skb) {
  __u32 bytes = skb->len > ETH_HLEN ? skb->len - ETH_HLEN : 0;
  __u64 workload = INTERFACE_BIT | skb->ifindex;
  struct interface *interface = interfaces.lookup(&workload);
  struct guest *guest = guests.lookup(&workload);
  struct workload *bound = workloads.lookup(&workload);
  struct segment segment = {};
  struct guest_flow *flow;
  struct packet packet = {};
  struct flow_key key = {};
  struct flow out = {};

  count_packet_in(workload, bytes);
  if (!interface || !guest)
    return TC_ACT_UNSPEC;
  read_reversed(skb, &packet, &out);
  if (packet.reason)
    return TC_ACT_UNSPEC;
  if (out.protocol == IPPROTO_TCP)
    read_segment(skb, &segment);
  if (is_from_gate(workload, interface, &out) && !(segment.flags & RST && !was_asked(workload, &out)))
    return restore_asked(skb, workload, &out) ? TC_ACT_UNSPEC : TC_ACT_SHOT; /* a reset may be our own refusal */
  if (out.protocol == IPPROTO_UDP && out.port == bpf_htons(DHCP_SERVER) && is_v4(out.address))
    learn_lease(skb, interface, guest);
  if (out.protocol != IPPROTO_TCP)
    return TC_ACT_UNSPEC;
  key_of(workload, &out, &key);
  flow = flows.lookup(&key);
  if (!flow)
    return TC_ACT_UNSPEC;
  flow->used_ns = coarse_now();
  if (flow->flags & FLOW_STARTED && !is_answered(flow)) {
    if ((segment.flags & (SYN | ACK)) == SYN)
      return hold_back(NO_FLOW); /* both ends begin: who is the client is then open to doubt */
    if ((segment.flags & (SYN | ACK)) == (SYN | ACK) && !note_answer(flow, &packet, &segment))
      return hold_back(NO_FLOW);
  }
  if (flow->flags & FLOW_STARTED)
    note_peer(&key, flow, &packet, &segment);
  if (flow->stamp.state == STATE_DENIED || segment.flags & RST)
    return TC_ACT_UNSPEC;
  if (bound && !is_settled(&flow->stamp, bound->generation, &out)) {
    guest_steps.call(skb, STEP_ANEW);
    return hold_back(HELPER_FAILED);
  }
  return TC_ACT_UNSPEC;
}
