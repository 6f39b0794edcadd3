/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_bytes goes on with bytes behind a hello that was allowed: record by record, until none can be another
 * hello. */
#pragma once

#include "guest_inspection.h"

static __always_inline enum fate walk_held(struct inspection *on, const struct hold *hold) {
  volatile struct walk *walk = &on->scratch->walk;
  __u32 length = on->seen->length, ahead = on->flow->walked - on->flow->base;
  struct stream all = {.held = hold->bytes, .length = length};
  struct guest_flow *flow = on->flow;
  enum flight flight;

  begin_walk(walk, flow);
  walk->at = ahead < length ? ahead : length;
  walk->skip = ahead < length ? 0 : ahead - length;
  flight = walk_records(0, &all, walk, length);
  if (flight == FLIGHT_HELLO || flight == FLIGHT_REFUSED) {
    on->seen->at = walk->at;
    on->seen->hello.reason = flight == FLIGHT_HELLO ? 0 : walk->reason;
    return flight == FLIGHT_HELLO ? FATE_READ : FATE_JUDGE;
  }
  if (on->seen->is_cut && !walk->is_settled)
    return FATE_DROP;
  if (walk->is_settled)
    flow->stamp.state = STATE_SETTLING;
  flow->walked = flow->base + (flight == FLIGHT_HELD || walk->is_settled ? walk->at : length + walk->skip);
  flow->stamp.after_ccs = walk->after_ccs;
  return FATE_PASS;
}

int on_guest_walk(struct __sk_buff *skb) {
  struct inspection on = {.skb = skb};
  struct hold *hold;

  if (!resume(&on))
    return TC_ACT_SHOT;
  hold = inspected(&on);
  return end_step(&on, hold ? end_inspection(&on, hold, walk_held(&on, hold)) : NEXT_DROP);
}
