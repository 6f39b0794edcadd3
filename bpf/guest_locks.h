/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What only one program may do at a time: whose insertion succeeds has the lock, and nobody waits for it. */
#pragma once

#include "guest_maps.h"

/* Who inspects a flow's bytes, judges it anew, or makes room by ending it. */
static __always_inline bool lock_flow(const struct flow_key *key) {
  __u64 taken = 1;

  return inspections.insert((struct flow_key *)key, &taken) == 0;
}

static __always_inline void unlock_flow(const struct flow_key *key) {
  inspections.delete((struct flow_key *)key);
}

/* For what a guest has but once, over all its flows. */
static __always_inline bool lock_guest(__u64 workload) {
  struct flow_key key = {.workload = workload};

  return lock_flow(&key);
}

static __always_inline void unlock_guest(__u64 workload) {
  struct flow_key key = {.workload = workload};

  unlock_flow(&key);
}
