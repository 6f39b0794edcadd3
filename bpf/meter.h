/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Limits: what a workload has used of each in its present window, and what happens beyond. Here too it is the programs
 * that put a workload into quarantine, so that it needs no agent. */
#pragma once

#include "stamp.h"

/* What is about to pass. */
struct charge {
  __u32 bytes;
  bool is_connection;
  bool is_contact; /* its destination counts */
};

struct excess {
  __u8 reason; /* 0: all of it fits */
  bool is_denied;
  bool is_quarantined;
};

static __always_inline bool is_lenient(__u8 mode) {
  return mode == MODE_MONITOR || mode == MODE_OPEN;
}

/* By one write, as the agent's own. A generation that no stamp has: each socket's next packet is judged anew. */
static __always_inline void quarantine(__u64 workload, __u64 now_ns) {
  struct workload *bound = workloads.lookup(&workload);
  struct workload closed = {.generation = now_ns, .override_until_ns = NEVER, .mode_override = MODE_QUARANTINE};

  if (!bound)
    return;
  closed.policy_id = bound->policy_id;
  if (workloads.update(&workload,
                       &closed)) { /* no memory: in place, where another CPU may see one field before another */
    bound->override_until_ns = NEVER;
    bound->mode_override = MODE_QUARANTINE;
    bound->generation = now_ns;
  }
}

static __always_inline bool is_undeclared_address(__u8 reason) {
  return reason == ADDRESS_NOT_ALLOWED || reason == PORT_NOT_ALLOWED || reason == NOT_RESOLVED ||
         reason == LOOPBACK_NOT_OWN;
}

/* Denied because no rule names the address: is that the end, by this policy? on_message asks the same of a name. */
static __always_inline void judge_undeclared(struct stamp *stamp, const struct standing *standing,
                                             struct telling *telling, struct judgement *ret) {
  if (!standing->quarantines_undeclared || standing->mode != MODE_ENFORCE || ret->outcome != DENY)
    return;
  if (!is_undeclared_address(ret->reason))
    return;
  telling->detail = ret->reason;
  ret->reason = UNDECLARED;
  stamp->told &= ~TOLD_DENIED;
  quarantine(standing->workload, telling->started_ns);
}

static __always_inline struct usage *usage_of(__u64 workload) {
  struct usage *found = usage.lookup(&workload);
  struct usage nothing = {};

  if (found)
    return found;
  usage.insert(&workload, &nothing);
  return usage.lookup(&workload);
}

/* 1 if so much more is beyond the limit; nothing more never is. Without a branch, for the verifier's sake. */
static __always_inline __u64 is_beyond(const struct limit *limit, __u64 count, __u64 amount) {
  return ((limit->max - count - amount) >> 63) & (-amount >> 63);
}

/* Under the lock: what was counted in the present window, which may begin now. */
static __always_inline __u64 count_of(struct usage *used, const struct policy *policy, __u32 which, __u64 now_ns) {
  struct window *window = &used->windows[which];

  /* Signed: another CPU may have begun the window after our look at the clock. */
  if (window->start_ns == 0 || (__s64)(now_ns - window->start_ns) >= (__s64)policy->limits[which].per_ns) {
    window->start_ns = now_ns;
    window->count = 0;
    used->reported &= ~(1 << which);
  }
  return window->count;
}

/* Notes an address as the n-th of this window, in the place of the n-th of an earlier one. 0: there is no room. */
static __always_inline bool note_destination(struct destination_key *key, __u64 start_ns, __u32 ordinal) {
  struct ordinal_key at = {.workload = key->workload, .ordinal = ordinal};
  struct destination fresh = {.start_ns = start_ns, .ordinal = ordinal};
  struct destination_key stale = {.workload = key->workload};
  struct ordinal *former = ordinals.lookup(&at);
  struct destination *old;

  if (former) {
    copy_address(stale.address, former->address);
    old = destinations.lookup(&stale);
    if (old && old->ordinal == ordinal && old->start_ns != start_ns)
      destinations.delete(&stale);
  }
  if (destinations.update(key, &fresh))
    return 0;
  copy_address(stale.address, key->address);
  return ordinals.update(&at, (struct ordinal *)stale.address) == 0;
}

/* Counts what is about to pass, or says which limit it is beyond. All or nothing: what is denied counts nowhere. */
static __always_inline void meter(const struct standing *standing, const struct flow *flow, const struct charge *charge,
                                  __u64 now_ns, struct excess *ret) {
  struct destination_key key = {.workload = standing->workload};
  __u32 policy_id = standing->policy_id, ordinal;
  struct policy *policy = policies.lookup(&policy_id);
  __u64 bytes, connections, counted_ns = 0, is_new, beyond, denied, told, start_ns;
  struct destination *known;
  struct usage *used;
  __u8 denies;

  used = usage_of(standing->workload);
  if (!policy || !used) {
    ret->reason = TABLE_FULL;
    ret->is_denied = !is_lenient(standing->mode);
    return;
  }
  copy_address(key.address, flow->address);
  if (charge->is_contact) {
    known = destinations.lookup(&key);
    if (known)
      counted_ns = known->start_ns;
  }
  denies = is_lenient(standing->mode) ? 0 : policy->denies;
  bytes = policy->limited & (1 << LIMITED_BYTES) ? charge->bytes : 0;
  connections = charge->is_connection & (policy->limited >> LIMITED_CONNECTIONS);
  is_new = charge->is_contact & (policy->limited >> LIMITED_DESTINATIONS);

  bpf_spin_lock(&used->lock);
  beyond = is_beyond(&policy->limits[LIMITED_BYTES], count_of(used, policy, LIMITED_BYTES, now_ns), bytes);
  beyond |=
      is_beyond(&policy->limits[LIMITED_CONNECTIONS], count_of(used, policy, LIMITED_CONNECTIONS, now_ns), connections)
      << LIMITED_CONNECTIONS;
  ordinal = count_of(used, policy, LIMITED_DESTINATIONS, now_ns);
  start_ns = used->windows[LIMITED_DESTINATIONS].start_ns;
  if (counted_ns == start_ns)
    is_new = 0;
  beyond |= is_beyond(&policy->limits[LIMITED_DESTINATIONS], ordinal, is_new) << LIMITED_DESTINATIONS;
  denied = beyond & denies;
  told = (denied ?: beyond & ~(__u64)used->reported);
  told &= -told;
  if (!denied) {
    is_new &= ~(beyond >> LIMITED_DESTINATIONS); /* reported: who is beyond has no ordinal */
    used->windows[LIMITED_BYTES].count += bytes;
    used->windows[LIMITED_CONNECTIONS].count += connections;
    used->windows[LIMITED_DESTINATIONS].count += is_new;
    used->reported |= told;
  }
  bpf_spin_unlock(&used->lock);

  if (!denied && is_new && !note_destination(&key, start_ns, ordinal)) {
    told = 1 << LIMITED_DESTINATIONS;
    denied = told & denies;
  }
  if (!told)
    return;
  ret->reason = LIMIT_BYTES + (told >> 1);
  ret->is_denied = denied != 0;
  ret->is_quarantined = (denied & policy->quarantines) != 0;
}

/* Holds what a rule allows against the limits. */
static __always_inline void judge_limits(struct stamp *stamp, const struct standing *standing, const struct flow *flow,
                                         const struct charge *charge, const struct telling *telling,
                                         struct judgement *ret) {
  struct excess excess = {};

  meter(standing, flow, charge, telling->started_ns, &excess);
  if (!excess.reason)
    return;
  if (!excess.is_denied)
    return emit(stamp, standing, flow, telling, AUDIT, excess.reason, ret->rule_id);
  deny(ret, excess.reason);
  if (excess.is_quarantined) {
    stamp->told &= ~TOLD_DENIED; /* of an earlier window, perhaps */
    quarantine(standing->workload, telling->started_ns);
  }
}
