/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The table of connections: bounded for each guest, so that one that floods it disturbs no other. */
#pragma once

#include "guest_segment.h"
#include "meter.h"

enum { PLACE_TRIES = 8 };
#define IDLE_NS 250000000ULL
#define FOLLOWED_IDLE_NS 5000000000ULL
#define HALF_CLOSED_NS 30000000000ULL
/* Where on_guest_out goes on. Twin: kernel/programs.py */
enum step {
  STEP_HELLO = 0,
  STEP_REFUSED = 1,
  STEP_UNKNOWN = 2,
  STEP_ANEW = 3,
  STEP_BYTES = 4,
  STEP_WALK = 5,
  STEP_READ = 6,
  STEP_NAME = 7
};
/* In the packet's control block, for the next step: why it is refused; which buffer is claimed. */
enum { REASON = 0, SLOT = 1 };
enum { TOLD_CUT = 32 }; /* both ends were told */

/* What keeps traffic out that is counted and not told: the guest sends it again, or it says nothing of the guest. */
static __always_inline int hold_back(__u8 reason) {
  __u32 index = reason;
  __u64 *counter = counters.lookup(&index);

  if (counter)
    __sync_fetch_and_add(counter, 1);
  return TC_ACT_SHOT;
}

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

/* One program at a time: who inspects a flow's bytes, judges it anew, or makes room by ending it. */
static __always_inline bool lock_flow(const struct flow_key *key) {
  __u64 taken = 1;

  return inspections.insert((struct flow_key *)key, &taken) == 0;
}

static __always_inline void unlock_flow(const struct flow_key *key) {
  inspections.delete((struct flow_key *)key);
}

static __always_inline __u64 tagged(__u32 first, __u32 value) {
  return (__u64)first << 32 | value;
}

/* What on_guest_in wrote of this very connection; else what holds at its beginning. */
static __always_inline __u32 untagged(__u64 word, __u32 first, __u32 else_value) {
  return word >> 32 == first ? (__u32)word : else_value;
}

/* No connection begins at 0: see refuse_first. */
static __always_inline bool is_answered(const struct guest_flow *flow) {
  return flow->first && flow->answered >> 32 == flow->first;
}

static __always_inline __u32 acked_of(const struct guest_flow *flow) {
  return untagged(flow->acked, flow->first, flow->first);
}

static __always_inline __u32 peer_end_of(const struct guest_flow *flow) {
  return untagged(flow->peer_end, flow->first, 0);
}

/* Whether the server may have closed its socket: what comes then could begin another connection there (SYN cookies), of
 * which nothing was read. A FIN alone keeps it for tcp_fin_timeout, a minute; less, to be sure. */
static __always_inline bool has_ended(const struct guest_flow *flow, __u64 now_ns) {
  __u32 peer = peer_end_of(flow);

  if (flow->flags & FLOW_RESET || peer & PEER_RESET)
    return 1;
  if (!(peer & PEER_FIN))
    return 0;
  if (now_ns - flow->peer_fin_ns > HALF_CLOSED_NS)
    return 1;
  return flow->flags & FLOW_SENT_FIN && !is_before(acked_of(flow), flow->sent);
}

/* Whether its segments must be looked at one by one. */
static __always_inline bool is_followed(const struct guest_flow *flow) {
  return flow->stamp.state == STATE_HELLO || flow->stamp.state == STATE_WATCHED ||
         flow->stamp.state == STATE_SETTLING || flow->stamp.state == STATE_DENIED;
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

/* Of the next few places, the one whose flow has ended, or else was unused longest. */
static __always_inline bool take_old_place(struct guest *guest, const struct flow_key *key, __u64 now_ns, __u32 *ret) {
  struct place_key at = {.workload = key->workload}, best = {.workload = key->workload};
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
    best.place = at.place;
  }
  if (oldest == NEVER)
    return 0;
  there = flow_places.lookup(&best);
  if (there)
    __builtin_memcpy(&victim, there, sizeof(victim));
  if (!lock_flow(&victim))
    return 0;
  ended = flows.lookup(&victim);
  if (ended)
    drop_hold(&victim, ended);
  flow_places.delete(&best);
  flows.delete(&victim);
  unlock_flow(&victim);
  *ret = best.place;
  return flow_places.insert(&best, (struct flow_key *)key) == 0; /* else another CPU was faster */
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
    __builtin_memset(&flow->stamp, 0, sizeof(flow->stamp));
  } else {
    if (!take_new_place(guest, key, &place) && !take_old_place(guest, key, now_ns, &place))
      return 0;
    *ret_is_short = flows.update((struct flow_key *)key, &empty->flow) != 0;
    flow = flows.lookup((struct flow_key *)key);
    if (!flow)
      return 0;
  }
  flow->place = place;
  flow->used_ns = now_ns;
  flow->stamp.workload = key->workload;
  flow->stamp.cookie = now_ns;
  return flow;
}

/* The guest's first segment: from here on its sequence numbers are followed, where a name is wanted. */
static __always_inline void begin_following(struct guest_flow *flow, const struct segment *segment) {
  flow->first = flow->next = flow->base = flow->walked = flow->sent = segment->seq + 1;
  flow->peer_acked = 0;
  flow->last_stamp = segment->stamped;
  flow->flags |= FLOW_STARTED | (segment->has_stamp ? FLOW_STAMPED : 0);
}

/* A SYN of ends that are known. One of the same number is the same again, as long as it began nothing; another must
 * begin behind all that was sent, as two kernels of good will do: older segments of the one before cannot be taken for
 * its own. */
static __always_inline bool is_again(const struct guest_flow *flow, const struct segment *segment) {
  return flow->flags & FLOW_STARTED && flow->first == segment->seq + 1;
}

static __always_inline bool may_be_again(const struct guest_flow *flow) {
  return flow->stamp.state == STATE_OPEN ||
         (flow->stamp.state == STATE_HELLO && flow->next == flow->first && !(flow->flags & FLOW_RESET));
}

static __always_inline bool may_begin_anew(const struct guest_flow *flow, const struct segment *segment) {
  return !(flow->flags & FLOW_STARTED) || flow->stamp.state == STATE_OPEN || is_before(flow->sent, segment->seq + 1);
}

/* What passed of a connection whose bytes are not inspected any more. */
static __always_inline void note_sent(struct guest_flow *flow, const struct packet *packet,
                                      const struct segment *segment) {
  __u32 end = end_of(segment, packet);

  if (segment->flags & FIN && !(flow->flags & FLOW_SENT_FIN))
    flow->flags |= FLOW_SENT_FIN;
  if (segment->flags & RST)
    flow->flags |= FLOW_RESET;
  if (is_before(flow->sent, end))
    flow->sent = end;
}

/* A packet to a destination that is settled: only its bytes may be limited. */
static __always_inline bool is_beyond_bytes(struct guest_flow *flow, const struct packet *packet, __u32 bytes) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = HOOK_GUEST, .bytes = bytes};
  struct charge charge = {.bytes = bytes};
  struct judgement judgement = {.outcome = ALLOW};
  struct standing standing;

  find_standing(flow->stamp.workload, telling.started_ns, &standing);
  judgement.rule_id = flow->stamp.rule_id;
  judge_limits(&flow->stamp, &standing, &packet->flow, &charge, &telling, &judgement);
  if (judgement.outcome == ALLOW)
    return 0;
  if (flow->stamp.told & TOLD_DENIED) {
    count_verdict(flow->stamp.workload, DROPPED, judgement.reason);
    return 1;
  }
  flow->stamp.told |= TOLD_DENIED;
  settle(&flow->stamp, &standing, &judgement, &packet->flow, &telling);
  return 1;
}
