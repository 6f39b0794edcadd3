/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of a socket, and what a judgement makes of it. */
#pragma once

#include "events.h"

/* Bits of stamp->told: what a packet's judgement has told, or counted against the limits. */
enum { TOLD_DENIED = 1, TOLD_ALLOWED = 2, TOLD_COUNTED = 4, TOLD_UNDECLARED = 8 };

static __always_inline __u64 epoch_now(void) {
  __u32 zero = 0;
  struct settings *now = settings.lookup(&zero);

  return now ? now->epoch : 0;
}

/* The nearest managed cgroup at or above that of a packet's socket, or of the current task where there is no packet;
 * 0: none, or one that is spared is nearer. */
static __always_inline __u64 nearest_workload(struct __sk_buff *skb) {
  __u64 found = 0;
  int level;

  for (level = 1; level <= ANCESTORS_MAX; level++) {
    __u64 cgroup = skb ? bpf_skb_ancestor_cgroup_id(skb, level) : bpf_get_current_ancestor_cgroup_id(level);
    struct workload *bound;

    if (cgroup == 0)
      break;
    bound = workloads.lookup(&cgroup);
    if (bound)
      found = bound->policy_id == SPARED ? 0 : cgroup;
  }
  return found;
}

static __always_inline __u64 workload_of_task(void) {
  return nearest_workload(0);
}

static __always_inline void forget_destination(struct stamp *stamp) {
  stamp->state = STATE_NEW;
  stamp->is_lenient = 0;
  stamp->has_early_data = 0;
  stamp->after_ccs = 0;
  stamp->skip = 0;
  stamp->told = 0;
  stamp->until_ns = 0;
  stamp->generation = 0;
  stamp->destination = (stamp->destination >> 32) << 32;
}

static __always_inline void begin_stamp(struct stamp *stamp, __u64 workload, __u64 epoch) {
  if (stamp->workload != workload)
    forget_destination(stamp);
  stamp->workload = workload;
  stamp->epoch = epoch;
}

/* Allowed: remember where to. Readers without the socket's lock compare the sequence before and after. */
static __always_inline void set_destination(struct stamp *stamp, const struct standing *standing,
                                            const struct judgement *judgement, const struct flow *flow, __u8 state) {
  __u64 sequence = (stamp->destination >> 32) + 1;

  stamp->destination = sequence << 32;
  asm volatile("" ::: "memory");
  copy_address(stamp->address, flow->address);
  stamp->policy_id = standing->policy_id;
  stamp->rule_id = judgement->rule_id;
  stamp->generation = standing->generation;
  stamp->is_metered = standing->limited & (1 << LIMITED_BYTES);
  stamp->until_ns = judgement->until_ns < standing->until_ns ? judgement->until_ns : standing->until_ns;
  stamp->state = state;
  asm volatile("" ::: "memory");
  stamp->destination = (sequence + 1) << 32 | destination_of(flow);
}

/* Whether this is where the socket last went, allowed still or not. */
static __always_inline bool is_destination(const struct stamp *stamp, const struct flow *flow) {
  return (__u32)stamp->destination == destination_of(flow) && is_same_address(stamp->address, flow->address);
}

/* Whether this very destination was allowed under the present generation, and still is. */
static __always_inline bool is_settled(const struct stamp *stamp, __u64 generation, const struct flow *flow) {
  __u64 before = *(volatile __u64 *)&stamp->destination;
  bool same;

  if ((__u32)before != destination_of(flow) || stamp->generation != generation)
    return 0;
  same = is_same_address(stamp->address, flow->address);
  if (!same || *(volatile __u64 *)&stamp->destination != before)
    return 0;
  return stamp->until_ns == NEVER || bpf_ktime_get_boot_ns() < stamp->until_ns;
}

/* The end of every judgement: tells and counts it. Returns whether the traffic may pass in this mode. */
static __always_inline bool settle(const struct stamp *stamp, const struct standing *standing,
                                   const struct judgement *judgement, const struct flow *flow,
                                   const struct telling *telling) {
  __u8 verdict = FORWARDED, reason = judgement->reason;

  if (judgement->outcome == DENY) {
    if (standing->mode == MODE_MONITOR)
      verdict = AUDIT;
    else if (standing->mode == MODE_OPEN)
      reason = OPEN_MODE;
    else
      verdict = reason >= TABLE_FULL ? ERROR : DROPPED;
  }
  emit(stamp, standing, flow, telling, verdict, reason, judgement->rule_id);
  return verdict == FORWARDED || verdict == AUDIT;
}

static __always_inline void judge_standing(const struct standing *standing, const struct flow *flow, __u64 now_ns,
                                           bool is_established, struct judgement *ret) {
  if (standing->reason) {
    ret->rule_id = 0;
    ret->names_id = 0;
    ret->until_ns = 0;
    return deny(ret, standing->reason);
  }
  judge_flow(standing, flow, now_ns, is_established, ret);
}
