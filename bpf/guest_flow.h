/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The table of connections: bounded for each guest, so that one that floods it disturbs no other. */
#pragma once

#include "guest_locks.h"
#include "guest_state.h"

enum { PLACE_TRIES = 8 };
#define IDLE_NS 250000000ULL
#define FOLLOWED_IDLE_NS 5000000000ULL

static __always_inline void key_of(__u64 workload, const struct flow *flow, struct flow_key *ret) {
  ret->workload = workload;
  copy_address(ret->guest, flow->source);
  copy_address(ret->peer, flow->address);
  ret->guest_port = flow->source_port;
  ret->peer_port = flow->port;
  ret->protocol = flow->protocol;
}

static __always_inline struct blank *blank(void) {
  __u32 zero = 0;

  return blanks.lookup(&zero);
}

static __always_inline bool is_same_flow(const struct flow_key *a, const struct flow_key *b) {
  return is_same_address(a->guest, b->guest) && is_same_address(a->peer, b->peer) && a->guest_port == b->guest_port &&
         a->peer_port == b->peer_port && a->protocol == b->protocol;
}

/* Whether a flow has its hold still: it may have gone to another one. */
static __always_inline bool is_held(const struct flow_key *key, const struct guest_flow *flow,
                                    struct place_key *ret_place) {
  struct flow_key *owner;

  ret_place->workload = key->workload;
  ret_place->place = flow->hold_place;
  if (!(flow->flags & FLOW_HELD))
    return 0;
  owner = hold_places.lookup(ret_place);
  return owner && is_same_flow(owner, key);
}

static __always_inline void drop_hold(const struct flow_key *key, struct guest_flow *flow) {
  struct place_key at = {};

  if (is_held(key, flow, &at))
    hold_places.delete(&at);
  flow->flags &= ~FLOW_HELD;
}

/* In which order flows go: none that may still be in the hands of a program on another CPU, which could write to it
 * while it is somebody else's already; nor one of which a server has read something and may not have forgotten it.
 * NEVER: it stays. */
static __always_inline __u64 age_of(const struct guest_flow *flow, __u64 now_ns) {
  if (!flow)
    return 0;
  if (now_ns - flow->used_ns < (is_followed(flow) && is_answered(flow) ? FOLLOWED_IDLE_NS : IDLE_NS))
    return NEVER;
  return has_ended(flow, now_ns) ? 1 : flow->used_ns;
}

/* Takes a place that was never taken; 0: there is none. An insertion is what only one CPU can do. */
static __always_inline bool take_new_place(struct guest *guest, const struct flow_key *key, __u32 *ret) {
  struct place_key at = {.workload = key->workload};
  __u32 i;

  for (i = 0; i < PLACE_TRIES; i++) {
    at.place = guest->flows;
    if (at.place >= GUEST_FLOWS)
      return 0;
    *ret = at.place;
    if (flow_places.insert(&at, (struct flow_key *)key) == 0) {
      guest->flows = at.place + 1;
      return 1;
    }
    guest->flows = at.place + 1;
  }
  return 0;
}

/* Of the next few places, the one whose flow has ended, or else was unused longest. Under the guest's lock. */
static __always_inline bool empty_old_place(struct guest *guest, struct place_key *ret, __u64 now_ns) {
  struct place_key at = {.workload = ret->workload};
  __u32 i, hand = guest->hand;
  __u64 oldest = NEVER, age;
  struct flow_key victim = {};
  struct guest_flow *ended;
  struct flow_key *there;

  guest->hand = hand + PLACE_TRIES;
  for (i = 0; i < PLACE_TRIES; i++) {
    at.place = (hand + i) & (GUEST_FLOWS - 1);
    there = flow_places.lookup(&at);
    age = there ? age_of(flows.lookup(there), now_ns) : 0;
    if (age >= oldest)
      continue;
    oldest = age;
    ret->place = at.place;
  }
  if (oldest == NEVER)
    return 0;
  there = flow_places.lookup(ret);
  if (!there)
    return 1;
  __builtin_memcpy(&victim, there, sizeof(victim));
  if (!lock_flow(&victim))
    return 0;
  ended = flows.lookup(&victim);
  if (age_of(ended, now_ns) == NEVER) { /* used meanwhile */
    unlock_flow(&victim);
    return 0;
  }
  if (ended)
    drop_hold(&victim, ended);
  flow_places.delete(ret);
  flows.delete(&victim);
  unlock_flow(&victim);
  return 1;
}

static __always_inline bool take_old_place(struct guest *guest, const struct flow_key *key, __u64 now_ns, __u32 *ret) {
  struct place_key at = {.workload = key->workload};
  bool is_taken;

  if (!lock_guest(key->workload))
    return 0;
  is_taken = empty_old_place(guest, &at, now_ns) && flow_places.insert(&at, (struct flow_key *)key) == 0;
  unlock_guest(key->workload);
  *ret = at.place;
  return is_taken;
}

/* A flow as new; in the place of the one that the same ends had before. 0: there is no room, or memory is short for the
 * moment. */
static __always_inline struct guest_flow *begin_flow(struct guest *guest, const struct flow_key *key, __u64 now_ns,
                                                     bool *ret_is_short) {
  struct guest_flow *flow = flows.lookup((struct flow_key *)key);
  struct blank *empty = blank();
  __u32 place = 0;

  if (!empty)
    return 0;
  if (flow) {
    if (flow->flags & FLOW_HELD)
      drop_hold(key, flow);
    place = flow->place;
    if (is_answered(flow)) {
      flow->shunned = flow->answered;
      flow->flags = FLOW_SHUNS;
    }
    flow->flags &= FLOW_SHUNS;
    flow->answered = flow->acked = flow->peer_next = flow->peer_end = 0;
    __builtin_memset(&flow->stamp, 0, sizeof(flow->stamp));
  } else {
    if (!take_new_place(guest, key, &place) && !take_old_place(guest, key, coarse_now(), &place))
      return 0;
    *ret_is_short = flows.update((struct flow_key *)key, &empty->flow) != 0;
    flow = flows.lookup((struct flow_key *)key);
    if (!flow)
      return 0;
  }
  flow->place = place;
  flow->used_ns = coarse_now();
  flow->stamp.workload = key->workload;
  flow->stamp.cookie = now_ns;
  return flow;
}
