/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A segment against its connection's stamp: what may leave before, while and after a name is verified. */
#pragma once

#include "packet.h"
#include "stamp.h"

/* Why a segment to an allowed destination must wait, or never leaves. 0: it may go. */
static __always_inline __u8 refuse_segment(const struct stamp *stamp, const struct packet *packet) {
  switch (stamp->state) {
  case STATE_OPEN:
    return 0;
  case STATE_WATCHED:
  case STATE_SETTLING:
    if (packet->flow.payload && (__s32)(packet->end_seq - stamp->first_seq - stamp->passed) > 0)
      return UNVERIFIED_DATA; /* bytes that on_message never saw: see is_in_step */
    return packet->is_urgent ? URGENT_DATA : 0;
  case STATE_VERIFIED:
    return packet->is_urgent ? URGENT_DATA : 0; /* the server would take a byte out of the stream that was judged */
  }
  return packet->flow.payload ? UNVERIFIED_DATA : 0;
}

static __always_inline bool is_verified(const struct stamp *stamp) {
  return stamp->state == STATE_WATCHED || stamp->state == STATE_SETTLING || stamp->state == STATE_VERIFIED;
}

/* Only what has left is settled: what passed on_message may have failed behind it, and something else be written. */
static __always_inline void settle_flight(struct stamp *stamp, const struct packet *packet) {
  if (stamp->state == STATE_SETTLING && packet->flow.payload &&
      (__s32)(packet->end_seq - stamp->first_seq - stamp->skip) >= 0)
    stamp->state = STATE_VERIFIED;
}
