/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_bytes and on_guest_walk go on with a hello: it is read as far as it has come, and what stands behind
 * it is walked. */
#pragma once

#include "guest_inspection.h"

/* A hello that has not come as a whole is well-formed so far, and the server can read no name in it. Where it is cut, a
 * second one has room once the server has read what is before it, the first none ever. */
static __always_inline enum fate refuse_incomplete(struct inspection *on) {
  if (!on->seen->is_cut)
    return FATE_PASS;
  on->reason = HELLO_TOO_LONG;
  return on->flow->stamp.state == STATE_HELLO ? FATE_DENY : FATE_DROP;
}

static __always_inline enum fate read_held(struct inspection *on, const struct hold *hold) {
  struct stream stream = {.held = hold->bytes, .start = on->seen->at, .length = on->seen->length - on->seen->at};

  read_hello(&stream, on->scratch);
  on->seen->hello = on->scratch->reading;
  return on->seen->hello.reason || on->seen->hello.is_complete ? FATE_JUDGE : refuse_incomplete(on);
}

int on_guest_read(struct __sk_buff *skb) {
  struct inspection on = {.skb = skb};
  struct hold *hold;

  if (!resume(&on))
    return TC_ACT_SHOT;
  hold = inspected(&on);
  return end_step(&on, hold ? end_inspection(&on, hold, read_held(&on, hold)) : NEXT_DROP);
}
