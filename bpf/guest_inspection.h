/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A segment under inspection, and how that ends. */
#pragma once

#include "flight.h"
#include "guest_bench.h"
#include "guest_bytes.h"

enum { TOLD_HELD_BACK = 16 };

/* What becomes of a segment. */
enum fate { FATE_DROP = 0, FATE_PASS = 1, FATE_DENY = 2, FATE_WALK = 3, FATE_READ = 4, FATE_JUDGE = 5 };

struct inspection {
  struct __sk_buff *skb;
  struct guest *guest;
  struct guest_flow *flow;
  struct scratch *scratch;
  struct bench *seen;
  __u8 reason;
};

/* The handshake's last segment has no timestamp where the server wanted none. */
static __always_inline bool is_unstamped(const struct guest_flow *flow, const struct packet *packet,
                                         const struct segment *segment) {
  return !segment->has_stamp && packet->flow.payload == 0 && flow->next == flow->first;
}

static __always_inline void note_passed(struct guest_flow *flow, const struct packet *packet,
                                        const struct segment *segment) {
  flow->used_ns = coarse_now();
  if (!is_answered(flow))
    return; /* a reset, of an older connection */
  note_sent(flow, packet, segment);
  if (segment->flags & RST)
    return;
  flow->peer_acked = segment->ack;
  if (segment->has_stamp)
    flow->last_stamp = segment->stamped;
  else if (is_unstamped(flow, packet, segment))
    flow->flags &= ~FLOW_STAMPED;
}

/* Tells a denial. Returns whether the segment passes in this mode. */
static __always_inline bool tell_denied(struct inspection *on) {
  struct bench *seen = on->seen;

  deny(&seen->judgement, on->reason);
  seen->judgement.rule_id = on->flow->stamp.rule_id;
  seen->telling.started_ns = bpf_ktime_get_boot_ns();
  find_standing(seen->key.workload, seen->telling.started_ns, &seen->standing);
  return settle(&on->flow->stamp, &seen->standing, &seen->judgement, &seen->packet.flow, &seen->telling);
}

static __always_inline bool passes_denied(struct inspection *on) {
  struct guest_flow *flow = on->flow;
  bool is_passed = on->reason && tell_denied(on); /* else it is told already */

  flow->stamp.state = is_passed ? STATE_OPEN : STATE_DENIED;
  drop_hold(&on->seen->key, flow);
  return is_passed;
}

/* Dropped, and sent again by a guest that means well. What only another would send is told, once. */
static __always_inline bool passes_dropped(struct inspection *on) {
  if (on->reason == OUT_OF_ORDER || on->reason == BUSY || on->flow->stamp.told & TOLD_HELD_BACK) {
    hold_back(on->reason);
    return 0;
  }
  on->flow->stamp.told |= TOLD_HELD_BACK;
  return tell_denied(on);
}

/* What becomes of a segment of a flow whose lock is held. */
static __always_inline enum next end_segment(struct inspection *on, enum fate fate) {
  switch (fate) {
  case FATE_PASS:
    note_passed(on->flow, &on->seen->packet, &on->seen->segment);
    break;
  case FATE_WALK:
    return NEXT_WALK;
  case FATE_READ:
    return NEXT_READ;
  case FATE_JUDGE:
    return NEXT_NAME;
  case FATE_DENY:
    if (!passes_denied(on))
      return NEXT_REFUSE;
    break;
  default:
    if (!passes_dropped(on))
      return NEXT_DROP;
  }
  count_packet_out(on->seen->key.workload, on->seen->telling.bytes);
  return NEXT_PASS;
}

/* The same of a segment with new bytes: they are held from now on if it passes. */
static __always_inline enum next end_inspection(struct inspection *on, struct hold *hold, enum fate fate) {
  if (fate == FATE_PASS) {
    hold->length = on->seen->length;
    on->flow->next = on->flow->base + on->seen->length;
  } else if (fate == FATE_DROP) {
    on->reason = OUT_OF_ORDER;
  }
  return end_segment(on, fate);
}

static __always_inline void begin_walk(volatile struct walk *walk, const struct guest_flow *flow) {
  walk->at = 0;
  walk->skip = 0;
  walk->reason = 0;
  walk->is_settled = 0;
  walk->after_ccs = flow->stamp.after_ccs;
  walk->has_early_data = flow->stamp.has_early_data;
}

/* The buffer that on_guest_hello has claimed. */
static __always_inline __u32 claimed_slot(const struct __sk_buff *skb) {
  return skb->cb[SLOT] & (SCRATCHES - 1);
}

/* Finds what an earlier step has begun. 0: it has not. */
static __always_inline bool resume(struct inspection *on) {
  __u32 slot = claimed_slot(on->skb);

  on->scratch = scratches.lookup(&slot);
  if (!on->scratch)
    return 0;
  on->seen = (struct bench *)&on->scratch->hello[BENCH_AT];
  on->flow = flows.lookup(&on->seen->key);
  on->guest = guests.lookup(&on->seen->key.workload);
  return 1;
}

/* The bytes that are inspected; 0: they, or their flow, are not there any more. */
static __always_inline struct hold *inspected(const struct inspection *on) {
  return on->flow ? hold_of(&on->seen->key, on->flow) : 0;
}

/* Goes on to the next step under the same lock, or gives lock and buffer back. */
static __always_inline int end_step(struct inspection *on, enum next next) {
  struct __sk_buff *skb = on->skb;
  __u32 slot = claimed_slot(skb);

  if (next == NEXT_BYTES)
    guest_steps.call(skb, STEP_BYTES);
  if (next == NEXT_WALK)
    guest_steps.call(skb, STEP_WALK);
  if (next == NEXT_READ)
    guest_steps.call(skb, STEP_READ);
  if (next == NEXT_NAME)
    guest_steps.call(skb, STEP_NAME);
  if (on->seen->is_locked)
    unlock_flow(&on->seen->key);
  claims.delete(&slot);
  if (next == NEXT_PASS) {
    set_hops(skb);
    return TC_ACT_UNSPEC;
  }
  skb->cb[REASON] = 0;
  if (next == NEXT_REFUSE)
    guest_steps.call(skb, STEP_REFUSED);
  return TC_ACT_SHOT;
}
