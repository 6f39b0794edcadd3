/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Segments of a connection whose name is awaited, watched or just settled. Only what the server will take exactly as we
 * read it passes; the rest is dropped, and the guest sends it again. */
#pragma once

#include "guest_inspection.h"

/* Why a segment of a connection is none that the server takes next; 0: it may be. */
static __always_inline __u8 refuse_order(const struct guest_flow *flow, const struct packet *packet,
                                         const struct segment *segment, __u64 now_ns) {
  __u32 payload = packet->flow.payload, next = flow->next, peer_first = flow->answered;
  __u32 acked = flow->peer_acked ?: peer_first;

  if (segment->flags & SYN)
    return OUT_OF_ORDER;
  if (!is_answered(flow)) /* a reset tells the server nothing, and may be for what that knows of an older connection */
    return segment->flags & RST && payload == 0 ? 0 : OUT_OF_ORDER;
  if (payload && !flow->stamp.is_lenient && has_ended(flow, now_ns))
    return NO_FLOW;
  if (flow->flags & FLOW_SENT_FIN && payload == 0)
    next++;
  if (flow->flags & FLOW_SENT_FIN && payload && is_before(flow->next, segment->seq + payload))
    return OUT_OF_ORDER; /* behind its end: some servers read on, and have the end for a byte */
  if (segment->flags & RST)
    return payload || (segment->seq != next && flow->stamp.state != STATE_SETTLING) ? OUT_OF_ORDER : 0;
  if (!(segment->flags & ACK) || is_before(segment->ack, acked) ||
      is_before(untagged(flow->peer_next, flow->first, peer_first), segment->ack))
    return OUT_OF_ORDER;
  if (segment->is_odd)
    return TCP_OPTION;
  if (flow->flags & FLOW_STAMPED && !(segment->has_stamp || is_unstamped(flow, packet, segment)))
    return OUT_OF_ORDER;
  if (flow->flags & FLOW_STAMPED && segment->has_stamp && is_before(segment->stamped, flow->last_stamp))
    return OUT_OF_ORDER;
  if (packet->is_urgent)
    return URGENT_DATA;
  if (flow->stamp.state == STATE_SETTLING)
    return 0;
  if (segment->flags & FIN && (payload || segment->seq != flow->next))
    return OUT_OF_ORDER;
  return is_before(next, segment->seq) ? OUT_OF_ORDER : 0;
}

/* A reset that the server would not take ends nothing. */
static __always_inline bool is_idle_reset(struct inspection *on) {
  return on->seen->segment.flags & RST && !is_sum_right(on->skb, &on->seen->packet, &on->seen->segment, on->scratch);
}

static __always_inline enum next judge_followed(struct inspection *on) {
  struct bench *seen = on->seen;

  read_packet(on->skb, ETH_HLEN, &seen->packet);
  if (seen->packet.reason)
    return NEXT_DROP;
  read_segment(on->skb, &seen->segment);
  read_options(on->skb, &seen->segment);
  key_of(INTERFACE_BIT | on->skb->ifindex, &seen->packet.flow, &seen->key);
  if (!lock_flow(&seen->key)) {
    hold_back(BUSY);
    return NEXT_DROP;
  }
  seen->is_locked = 1;
  on->flow = flows.lookup(&seen->key);
  if (!on->flow)
    return NEXT_DROP;
  if (on->flow->stamp.state == STATE_DENIED) {
    count_verdict(seen->key.workload, DROPPED, UNVERIFIED_DATA);
    return NEXT_REFUSE;
  }
  if (on->flow->stamp.is_metered && is_beyond_bytes(on->flow, &seen->packet, seen->telling.bytes))
    return NEXT_DROP;
  on->reason = refuse_order(on->flow, &seen->packet, &seen->segment, coarse_now());
  if (!on->reason && is_idle_reset(on))
    on->reason = BAD_CHECKSUM;
  if (!on->reason && seen->packet.flow.payload)
    return NEXT_BYTES; /* they are looked at under this lock */
  return end_segment(on, on->reason ? FATE_DROP : FATE_PASS);
}

int on_guest_hello(struct __sk_buff *skb) {
  struct inspection on = {.skb = skb};
  __u32 slot = 0;

  on.scratch = claim_scratch(skb->ifindex, &slot);
  if (!on.scratch)
    return hold_back(BUSY);
  skb->cb[SLOT] = slot;
  on.seen = clear_bench(skb, on.scratch);
  return end_step(&on, judge_followed(&on));
}
