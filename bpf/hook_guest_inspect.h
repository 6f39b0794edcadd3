/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_hello goes on with new bytes: a hello is read as far as it has come, and judged once it is whole; what
 * follows it is walked record by record. */
#pragma once

#include "guest_inspection.h"

/* A hello that has not come as a whole. Where it is cut, a second one has room once the server has read, the first none
 * ever. */
static __always_inline enum fate refuse_incomplete(struct inspection *on, bool is_first) {
  if (!on->seen->is_cut)
    return FATE_PASS;
  on->reason = HELLO_TOO_LONG;
  return is_first ? FATE_DENY : FATE_DROP;
}

/* The name in what is held, from a hello's first byte on, against the policy; and what stands behind it. */
static __always_inline enum fate judge_held(struct inspection *on, const struct stream *all, __u32 at) {
  struct stream stream = {.held = all->held, .start = at, .length = all->length - at};
  volatile struct walk *walk = &on->scratch->walk;
  struct judgement *judgement = &on->seen->judgement;
  struct standing *standing = &on->seen->standing;
  struct telling *telling = &on->seen->telling;
  struct guest_flow *flow = on->flow;
  struct hello hello = {};
  bool is_first = flow->stamp.state == STATE_HELLO;

  hello.reason = walk->reason;
  if (!hello.reason) {
    read_hello(&stream, on->scratch);
    hello = on->scratch->reading;
    if (!hello.reason && !hello.is_complete)
      return refuse_incomplete(on, is_first); /* well-formed so far: the server can read no name in it */
    walk->at = at;
    walk->skip = 0;
    if (!hello.reason && must_hold_behind(0, all, walk, all->length, &hello))
      walk->reason = 0;
    if (on->seen->is_cut && !hello.reason && !walk->reason && !walk->is_settled)
      return FATE_DROP;
  }
  telling->started_ns = bpf_ktime_get_boot_ns();
  find_standing(flow->stamp.workload, telling->started_ns, standing);
  judge_destination_of_hello(standing, &on->seen->packet.flow, telling->started_ns, judgement);
  telling->bytes = hello.consumed ?: all->length;
  telling->scratch = on->scratch;
  telling->name_at = hello.name_at;
  telling->name_length = hello.name_length;
  if (hello.reason && judgement->outcome != ALLOW) {
    deny(judgement, judgement->outcome == DENY ? judgement->reason : hello.reason);
  } else if (!hello.reason) {
    bool is_named = judgement->outcome == ASK_NAME;

    judge_hello(&flow->name, standing, &on->seen->packet.flow, on->scratch, is_first, telling->started_ns, judgement);
    if (walk->reason && is_named && judgement->outcome == ALLOW) {
      hello.reason = walk->reason;
      deny(judgement, hello.reason);
    }
  }
  if (judgement->reason == NAME_NOT_ALLOWED && standing->quarantines_undeclared && standing->mode == MODE_ENFORCE) {
    judgement->reason = UNDECLARED;
    quarantine(flow->stamp.workload, telling->started_ns);
  }
  if (is_first || judgement->outcome != ALLOW) {
    if (!settle(&flow->stamp, standing, judgement, &on->seen->packet.flow, telling))
      return FATE_DENY;
    if (judgement->outcome == DENY)
      judgement->until_ns = NEVER;
    set_destination(&flow->stamp, standing, judgement, &on->seen->packet.flow,
                    hello.reason || judgement->outcome == DENY ? STATE_OPEN : STATE_WATCHED);
  }
  flow->walked = flow->base + walk->at + walk->skip;
  if (walk->is_settled && flow->stamp.state == STATE_WATCHED)
    flow->stamp.state = STATE_SETTLING;
  flow->stamp.after_ccs = walk->after_ccs;
  flow->stamp.has_early_data = walk->has_early_data;
  return FATE_PASS;
}

/* What is held now, with the new bytes: records behind a hello that was allowed, or a hello. */
static __always_inline enum fate inspect_held(struct inspection *on, const struct hold *hold, __u32 length) {
  volatile struct walk *walk = &on->scratch->walk;
  struct stream all = {.held = hold->bytes, .length = length};
  struct guest_flow *flow = on->flow;
  __u32 ahead = flow->walked - flow->base;

  walk->reason = 0;
  walk->is_settled = 0;
  walk->after_ccs = flow->stamp.after_ccs;
  walk->has_early_data = flow->stamp.has_early_data;
  walk->at = 0;
  walk->skip = 0;
  if (flow->stamp.state == STATE_WATCHED) {
    walk->at = ahead < length ? ahead : length;
    walk->skip = ahead < length ? 0 : ahead - length;
    switch (walk_records(0, &all, walk, length)) {
    case FLIGHT_PASSES:
      if (on->seen->is_cut && !walk->is_settled)
        return FATE_DROP;
      if (walk->is_settled)
        flow->stamp.state = STATE_SETTLING;
      flow->walked = flow->base + (walk->is_settled ? walk->at : length + walk->skip);
      flow->stamp.after_ccs = walk->after_ccs;
      return FATE_PASS;
    case FLIGHT_HELD:
      if (on->seen->is_cut)
        return FATE_DROP;
      flow->walked = flow->base + walk->at;
      flow->stamp.after_ccs = walk->after_ccs;
      return FATE_PASS;
    case FLIGHT_HELLO:
      walk->reason = 0;
      break;
    default:
      break;
    }
  }
  return judge_held(on, &all, walk->at);
}

int on_guest_inspect(struct __sk_buff *skb) {
  struct inspection on = {.skb = skb};
  __u32 slot = skb->cb[SLOT] & (SCRATCHES - 1);
  enum next next = NEXT_DROP;
  struct hold *hold;
  enum fate fate;

  if (!resume_inspection(&on, slot))
    return TC_ACT_SHOT;
  hold = on.flow ? hold_of(&on.seen->key, on.flow) : 0;
  if (hold) {
    fate = inspect_held(&on, hold, on.seen->length);
    if (fate == FATE_PASS) {
      hold->length = on.seen->length;
      on.flow->next = on.flow->base + on.seen->length;
    } else if (fate == FATE_DROP) {
      on.reason = OUT_OF_ORDER;
    }
    next = end_segment(&on, fate);
    if (next == NEXT_PASS && on.flow->stamp.state == STATE_OPEN)
      drop_hold(&on.seen->key, on.flow);
  }
  return end_step(&on, slot, next);
}
