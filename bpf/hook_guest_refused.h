/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_out and on_guest_hello end with a denied packet: who sent it hears so at once, and so does the server
 * of a connection that had begun. */
#pragma once

#include "guest_flow.h"
#include "guest_prohibited.h"

int on_guest_refused(struct __sk_buff *skb) {
  __u64 workload = INTERFACE_BIT | skb->ifindex;
  struct segment segment = {};
  struct packet packet = {};
  struct flow_key key = {};
  struct guest_flow *flow;

  read_packet(skb, ETH_HLEN, &packet);
  if (packet.reason)
    return TC_ACT_SHOT;
  if (packet.flow.protocol == IPPROTO_UDP)
    return refuse_datagram(skb, &packet);
  if (packet.flow.protocol != IPPROTO_TCP)
    return TC_ACT_SHOT;
  read_segment(skb, &segment);
  key_of(workload, &packet.flow, &key);
  flow = flows.lookup(&key);
  if (!flow && skb->cb[REASON] == NO_FLOW && segment.flags & ACK && packet.flow.port != bpf_htons(53))
    return cut_both_ways(skb, &packet, &segment, segment.seq, segment.ack, REPLY_TO_INTERFACE);
  if (!flow || flow->stamp.state != STATE_DENIED || is_first_segment(&segment) || flow->stamp.told & TOLD_CUT)
    return refuse_segment_to_sender(skb, &packet, &segment, REPLY_TO_INTERFACE);
  flow->stamp.told |= TOLD_CUT;
  flow->flags |= FLOW_RESET;
  return cut_both_ways(skb, &packet, &segment, flow->next, untagged(flow->peer_next, flow->first, segment.ack),
                       REPLY_TO_INTERFACE);
}
