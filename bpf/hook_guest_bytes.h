/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_hello goes on with a segment's payload: what is held of it already must be the same, what is new is
 * held and inspected. */
#pragma once

#include "guest_inspection.h"

/* A segment with payload, under the flow's lock. */
static __always_inline enum fate judge_bytes(struct inspection *on) {
  __u32 payload = on->seen->packet.flow.payload, seq = on->seen->segment.seq, room;
  volatile struct span *span = &on->seen->span;
  struct guest_flow *flow = on->flow;
  struct hold *hold;
  __u64 now_ns;

  if (!is_before(acked_of(flow), seq + payload))
    return FATE_PASS; /* the server has all of it: it only says so again */
  on->reason = OUT_OF_ORDER;
  if (flow->stamp.state == STATE_SETTLING && !is_before(seq, flow->next))
    return FATE_PASS; /* behind what was inspected */
  span->taken = payload < HOLD_BYTES ? payload : HOLD_BYTES;
  if (bpf_skb_pull_data(on->skb, on->skb->len)) /* what a guest could still write to is copied */
    return FATE_DROP;
  if (!read_payload(on->skb, on->seen->segment.at + on->seen->segment.size, span->taken, on->scratch))
    return FATE_DROP;
  if (!is_sum_right(on->skb, &on->seen->packet, &on->seen->segment, on->scratch)) {
    on->reason = BAD_CHECKSUM;
    return FATE_DROP;
  }
  now_ns = coarse_now();
  if (!(flow->flags & FLOW_HELD))
    begin_hold(on->guest, &on->seen->key, flow, now_ns);
  hold = hold_of(&on->seen->key, flow);
  if (!hold) {
    on->reason = BUSY;
    return flow->flags & FLOW_HELD ? FATE_DENY : FATE_DROP; /* it was taken away, or there is none yet */
  }
  hold->used_ns = now_ns;
  span->held = hold->length;
  span->offset = seq - flow->base;
  if (span->offset > span->held || span->held > HOLD_BYTES) /* also what begins before the hold: it wraps around */
    return FATE_DROP;
  span->known = span->held - span->offset;
  if (span->known > span->taken)
    span->known = span->taken;
  if (!is_copy(hold, span->offset, on->scratch, span->known)) {
    on->reason = DIFFERING_COPY;
    return FATE_DENY;
  }
  if (span->known == payload || flow->stamp.state == STATE_SETTLING)
    return FATE_PASS;
  room = HOLD_BYTES - span->offset;
  if (span->taken > room)
    span->taken = room;
  if (span->taken <=
      span->known) { /* there is none: a hello so long is refused, else the server makes some by reading */
    if (flow->stamp.state != STATE_HELLO)
      return FATE_DROP;
    on->reason = HELLO_TOO_LONG;
    return FATE_DENY;
  }
  append(hold, on->scratch, span->known, span->taken - span->known);
  on->seen->length = span->offset + span->taken;
  on->seen->is_cut = span->taken < payload;
  return flow->stamp.state == STATE_HELLO ? FATE_READ : FATE_WALK;
}

int on_guest_bytes(struct __sk_buff *skb) {
  struct inspection on = {.skb = skb};
  enum next next = NEXT_DROP;

  if (!resume(&on))
    return TC_ACT_SHOT;
  if (on.flow && on.guest)
    next = end_segment(&on, judge_bytes(&on));
  return end_step(&on, next);
}
