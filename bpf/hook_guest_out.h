/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every frame that leaves a guest. What is settled passes, segments of connections whose name is awaited go on to
 * on_guest_hello, and the rest is judged here. */
#pragma once

#include "guest_flow.h"
#include "guest_gate.h"
#include "guest_link.h"

enum frame { FRAME_REFUSED = 0, FRAME_PASSES = 1, FRAME_JUDGED = 2 };

/* Who sends it, to whom on the link, and whether its headers say what they seem to say. */
static __always_inline enum frame look_at_frame(struct __sk_buff *skb, const struct interface *interface,
                                                struct guest *guest, struct packet *ret) {
  struct ethhdr link;
  bool is_to_many;
  __u8 type = 0;

  ret->reason = refuse_headers_elsewhere(skb);
  if (ret->reason)
    return FRAME_REFUSED;
  ret->reason = LINK_PROTOCOL;
  if (skb->vlan_present || bpf_skb_load_bytes(skb, 0, &link, sizeof(link)) || link.h_proto != skb->protocol)
    return FRAME_REFUSED;
  if (link.h_proto != bpf_htons(ETH_P_IP) && link.h_proto != bpf_htons(ETH_P_IPV6) &&
      link.h_proto != bpf_htons(ETH_P_ARP))
    return FRAME_REFUSED;
  ret->reason = SPOOFED;
  if (!is_guests_mac(interface, guest, link.h_source))
    return FRAME_REFUSED;
  if (link.h_proto == bpf_htons(ETH_P_ARP)) {
    ret->reason = is_summed_later(skb) ? BAD_CHECKSUM : refuse_arp(skb, interface, guest, link.h_dest);
    return ret->reason ? FRAME_REFUSED : FRAME_PASSES;
  }
  ret->reason = refuse_length(skb) ?: refuse_header(skb);
  if (ret->reason)
    return FRAME_REFUSED;
  read_packet(skb, ETH_HLEN, ret);
  if (ret->reason)
    return FRAME_REFUSED;
  ret->reason = refuse_sum_place(skb, ret->flow.protocol);
  if (ret->reason)
    return FRAME_REFUSED;
  if (link.h_proto == bpf_htons(ETH_P_IPV6) && (is_v4(ret->flow.address) || is_v4(ret->flow.source))) {
    ret->reason = MALFORMED_PACKET; /* RFC 4291 2.5.5.2: these are for programs, and mean another destination */
    return FRAME_REFUSED;
  }
  is_to_many = is_multicast(ret->flow.address) || (is_v4(ret->flow.address) && ret->flow.address[3] == 0xffffffff);
  if (ret->flow.protocol == IPPROTO_ICMP && skb->len < transport_at(skb) + 8) {
    ret->reason = MALFORMED_PACKET;
    return FRAME_REFUSED;
  }
  ret->reason = NEIGHBOUR;
  if (link.h_dest[0] & 1 ? !is_to_many : !is_gateways_mac(interface, link.h_dest))
    return FRAME_REFUSED;
  if (is_among_neighbours(skb, &type)) {
    ret->reason = refuse_neighbour(skb, interface, guest, ret, type);
    return ret->reason ? FRAME_REFUSED : FRAME_PASSES;
  }
  if (is_dhcp_question(&ret->flow)) {
    ret->reason = refuse_dhcp(skb, interface, guest, &ret->flow);
    return ret->reason ? FRAME_REFUSED : FRAME_PASSES;
  }
  ret->reason = is_guests(skb->ifindex, interface, guest, ret->flow.source) ? 0 : SPOOFED;
  return ret->reason ? FRAME_REFUSED : FRAME_JUDGED;
}

/* Membership reports: every guest sends them by itself, and they mean nothing to anybody here. */
static __always_inline bool is_chatter(const struct packet *packet) {
  if (packet->reason != EXTENSION_HEADER && packet->reason != IP_OPTIONS_PRESENT && packet->reason != PACKET_PROTOCOL)
    return 0;
  if (is_v4(packet->flow.address))
    return (packet->flow.address[3] & bpf_htonl(0xffffff00)) == bpf_htonl(0xe0000000);
  return (packet->flow.address[0] & bpf_htonl(0xffff0000)) == bpf_htonl(0xff020000);
}

/* Ours, sent back to the server: see on_guest_anew. Any other tells the server something. */
static __always_inline bool is_own_reset(const struct guest_flow *flow, const struct packet *packet,
                                         const struct segment *segment) {
  return segment->flags == (RST | ACK) && segment->size == 20 && packet->flow.payload == 0 &&
         segment->seq == flow->next && segment->ack == untagged(flow->peer_next, flow->first, ~segment->ack);
}

/* Half of it the server has acknowledged: a guest that means well sends what it lacks only. Another server behind the
 * same address, to whom all of it is new, would read what was not inspected. */
static __always_inline bool is_astride(const struct guest_flow *flow, const struct packet *packet,
                                       const struct segment *segment) {
  __u32 acked = acked_of(flow);

  return is_before(segment->seq, acked) && is_before(acked, segment->seq + packet->flow.payload);
}

/* What is settled passes, if its bytes are within their limit and its connection is still there. */
static __always_inline int pass_settled(struct guest_flow *flow, const struct packet *packet,
                                        const struct segment *segment, __u32 bytes) {
  __u64 now_ns = coarse_now();

  if (packet->flow.protocol == IPPROTO_TCP) {
    if (flow->stamp.state == STATE_VERIFIED && packet->flow.payload && !flow->stamp.is_lenient) {
      if (has_ended(flow, now_ns))
        return hold_back(NO_FLOW);
      if (is_astride(flow, packet, segment))
        return hold_back(OUT_OF_ORDER);
    }
    note_sent(flow, packet, segment);
  }
  flow->used_ns = now_ns;
  if (flow->stamp.is_metered && is_beyond_bytes(flow, packet, bytes))
    return TC_ACT_SHOT;
  count_packet_out(flow->stamp.workload, bytes);
  return TC_ACT_UNSPEC;
}

int on_guest_out(struct __sk_buff *skb) {
  __u32 bytes = skb->len > ETH_HLEN ? skb->len - ETH_HLEN : 0;
  __u64 workload = INTERFACE_BIT | skb->ifindex;
  struct interface *interface = interfaces.lookup(&workload);
  struct guest *guest = guests.lookup(&workload);
  struct segment segment = {};
  struct guest_flow *flow = 0;
  struct packet packet = {};
  struct flow_key key = {};
  struct workload *bound;
  bool is_first = 0;

  if (!interface || !guest) {
    count_verdict(workload, ERROR, STAMP_MISSING);
    return TC_ACT_SHOT;
  }
  switch (look_at_frame(skb, interface, guest, &packet)) {
  case FRAME_PASSES:
    count_packet_out(workload, bytes);
    return TC_ACT_UNSPEC;
  case FRAME_REFUSED:
    if (is_chatter(&packet))
      return hold_back(packet.reason);
    break;
  default:
    break;
  }
  key_of(workload, &packet.flow, &key);
  if (!packet.reason && packet.flow.protocol == IPPROTO_TCP) {
    read_segment(skb, &segment);
    is_first = is_first_segment(&segment);
    if (segment.flags & SYN && segment.flags & (FIN | RST))
      packet.reason = MALFORMED_PACKET; /* some servers take it for a beginning, others for an end */
    if (is_first && segment.seq + 1 == 0)
      return hold_back(OUT_OF_ORDER); /* see is_answered */
  }
  if (!packet.reason) {
    if (is_question(&packet.flow)) {
      packet.reason =
          refuse_question(skb, guest, interface, &packet.flow, is_first || packet.flow.protocol == IPPROTO_UDP);
      if (!packet.reason) {
        count_packet_out(workload, bytes);
        return TC_ACT_UNSPEC;
      }
    } else if (is_gates_address(interface, packet.flow.address)) {
      packet.reason = GATE_NOT_OWN;
    } else if (!is_first && (packet.flow.protocol != IPPROTO_ICMP || is_ordinary_icmp(skb))) {
      flow = flows.lookup(&key);
    }
  }
  bound = workloads.lookup(&workload);
  if (flow && flow->flags & FLOW_OWN_RESET && is_own_reset(flow, &packet, &segment)) {
    flow->flags &= ~FLOW_OWN_RESET;
    return TC_ACT_UNSPEC;
  }
  if (flow && bound && is_settled(&flow->stamp, bound->generation, &packet.flow)) {
    if (is_followed(flow) || flow->flags & FLOW_HELD) {
      guest_steps.call(skb, STEP_HELLO);
      return hold_back(HELPER_FAILED);
    }
    if (flow->stamp.state != STATE_VERIFIED || !packet.is_urgent)
      return pass_settled(flow, &packet, &segment, bytes);
    packet.reason = URGENT_DATA;
  }
  skb->cb[REASON] = packet.reason;
  guest_steps.call(skb, STEP_UNKNOWN);
  return hold_back(HELPER_FAILED);
}
