/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How many of a guest's denials are told: the ring of verdicts is everybody's, and any frame can be a denial. */
#pragma once

#include "guest_maps.h"
#include "stamp.h"

/* Of the second: windows of 2^30 ns, numbered in the upper half of guest->told, counted in the lower one. Two CPUs that
 * begin a window at once may tell one more. */
static __always_inline bool may_tell(struct guest *guest, __u64 now_ns) {
  __u32 told = *(volatile __u32 *)&guest->told, window = (__u32)(now_ns >> 30) << 16;

  if ((told ^ window) >> 16) {
    guest->told = window | 1;
    return 1;
  }
  if ((told & 0xffff) >= GUEST_TOLD)
    return 0;
  __sync_fetch_and_add(&guest->told, 1);
  return 1;
}

/* The end of a judgement about a frame of no connection: what is not told is counted, as a verdict and as lost. */
static __always_inline bool settle_frame(struct guest *guest, const struct standing *standing,
                                         const struct judgement *judgement, const struct flow *flow,
                                         const struct telling *telling) {
  __u8 verdict = judgement->reason >= TABLE_FULL ? ERROR : DROPPED;
  __u32 lost = 0;
  __u64 *counter;

  if (judgement->outcome != DENY || standing->mode == MODE_OPEN || may_tell(guest, telling->started_ns))
    return settle(&guest->stamp, standing, judgement, flow, telling);
  if (standing->mode == MODE_MONITOR)
    verdict = AUDIT;
  count_verdict(standing->workload, verdict, judgement->reason);
  counter = counters.lookup(&lost);
  if (counter)
    __sync_fetch_and_add(counter, 1);
  return verdict == AUDIT;
}
