/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_read goes on with a whole hello, or with why it is none: its name against the policy. */
#pragma once

#include "guest_inspection.h"

/* What the segment has behind the hello: early data, but no other hello. Returns whether it has come too early. */
static __always_inline bool is_behind_cut(struct inspection *on, const struct hold *hold) {
  struct stream all = {.held = hold->bytes, .length = on->seen->length};
  volatile struct walk *walk = &on->scratch->walk;

  begin_walk(walk, on->flow);
  if (on->seen->hello.reason)
    return 0;
  walk->at = on->seen->at;
  if (must_hold_behind(0, &all, walk, all.length, &on->seen->hello)) {
    walk->reason = 0;
    on->seen->ahead = walk->at;
  } else {
    on->seen->ahead = walk->is_settled ? walk->at : all.length + walk->skip;
  }
  return on->seen->is_cut && !walk->reason && !walk->is_settled;
}

static __always_inline enum fate judge_held(struct inspection *on) {
  volatile struct walk *walk = &on->scratch->walk;
  const struct flow *out = &on->seen->packet.flow;
  struct judgement *judgement = &on->seen->judgement;
  struct standing *standing = &on->seen->standing;
  struct telling *telling = &on->seen->telling;
  struct hello *hello = &on->seen->hello;
  struct guest_flow *flow = on->flow;
  bool is_first = flow->stamp.state == STATE_HELLO;

  telling->started_ns = bpf_ktime_get_boot_ns();
  find_standing(flow->stamp.workload, telling->started_ns, standing);
  judge_destination_of_hello(standing, out, telling->started_ns, judgement);
  telling->bytes = hello->consumed ?: on->seen->length;
  if (hello->reason && judgement->outcome != ALLOW) {
    deny(judgement, judgement->outcome == DENY ? judgement->reason : hello->reason);
  } else if (!hello->reason) {
    bool is_named = judgement->outcome == ASK_NAME;

    judge_hello(&flow->name, standing, out, on->scratch, is_first, telling->started_ns, judgement);
    if (walk->reason && is_named && judgement->outcome == ALLOW) {
      hello->reason = walk->reason;
      deny(judgement, hello->reason);
    }
  }
  if (judgement->reason == NAME_NOT_ALLOWED && standing->quarantines_undeclared && standing->mode == MODE_ENFORCE) {
    judgement->reason = UNDECLARED;
    quarantine(flow->stamp.workload, telling->started_ns);
  }
  if (is_first || judgement->outcome != ALLOW) {
    struct telling told = *telling; /* a pointer to the scratch cannot be kept in a map */

    told.scratch = on->scratch;
    told.name_at = hello->name_at;
    told.name_length = hello->name_length;
    if (!settle(&flow->stamp, standing, judgement, out, &told))
      return FATE_DENY;
    if (judgement->outcome == DENY)
      judgement->until_ns = NEVER;
    set_destination(&flow->stamp, standing, judgement, out,
                    hello->reason || judgement->outcome == DENY ? STATE_OPEN : STATE_WATCHED);
  }
  flow->walked = flow->base + on->seen->ahead;
  if (walk->is_settled && flow->stamp.state == STATE_WATCHED)
    flow->stamp.state = STATE_SETTLING;
  flow->stamp.after_ccs = walk->after_ccs;
  flow->stamp.has_early_data = walk->has_early_data;
  return FATE_PASS;
}

int on_guest_name(struct __sk_buff *skb) {
  struct inspection on = {.skb = skb};
  struct hold *hold;
  enum next next = NEXT_DROP;

  if (!resume(&on))
    return TC_ACT_SHOT;
  hold = inspected(&on);
  if (hold)
    next = end_inspection(&on, hold, is_behind_cut(&on, hold) ? FATE_DROP : judge_held(&on));
  if (next == NEXT_PASS && on.flow->stamp.state == STATE_OPEN)
    drop_hold(&on.seen->key, on.flow);
  return end_step(&on, next);
}
