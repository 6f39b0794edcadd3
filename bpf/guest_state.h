/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is known of one connection, and what follows from it. */
#pragma once

#include "guest_segment.h"
#include "meter.h"

#define HALF_CLOSED_NS 30000000000ULL
#define FORGOTTEN_NS 130000000000ULL /* SYN cookies are taken for two minutes, late answers come for one */

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

/* When flows are used is known to a few milliseconds: this clock costs a tenth of the other. It stands still while the
 * host sleeps. */
static __always_inline __u64 coarse_now(void) {
  return bpf_ktime_get_coarse_ns();
}

/* What keeps traffic out that is counted and not told: the guest sends it again, or it says nothing of the guest. */
static __always_inline int hold_back(__u8 reason) {
  __u32 index = reason;
  __u64 *counter = counters.lookup(&index);

  if (counter)
    __sync_fetch_and_add(counter, 1);
  return TC_ACT_SHOT;
}

static __always_inline __u64 tagged(__u32 first, __u32 value) {
  return (__u64)first << 32 | value;
}

/* What on_guest_in wrote of this very connection; else what holds at its beginning. */
static __always_inline __u32 untagged(__u64 word, __u32 first, __u32 else_value) {
  return word >> 32 == first ? (__u32)word : else_value;
}

/* No connection begins at 0: on_guest_out lets none. */
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
  return flow->flags & FLOW_SENT_FIN && !is_before(acked_of(flow), flow->fin);
}

/* Whether its segments must be looked at one by one. */
static __always_inline bool is_followed(const struct guest_flow *flow) {
  return flow->stamp.state == STATE_HELLO || flow->stamp.state == STATE_WATCHED ||
         flow->stamp.state == STATE_SETTLING || flow->stamp.state == STATE_DENIED;
}

/* The guest's first segment: from here on its sequence numbers are followed, where a name is wanted. */
static __always_inline void begin_following(struct guest_flow *flow, const struct segment *segment) {
  flow->first = flow->next = flow->base = flow->walked = flow->sent = segment->seq + 1;
  flow->peer_acked = 0;
  flow->last_stamp = segment->stamped;
  flow->flags |= FLOW_STARTED | (segment->has_stamp ? FLOW_STAMPED : 0);
}

/* A SYN of ends that are known. One of the same number is the same again, as long as it began nothing; another must
 * begin behind all that was sent, as two kernels of good will do, so that older segments of the one before cannot be
 * taken for its own; unless that is long ago: numbers come round in five minutes. */
static __always_inline bool is_again(const struct guest_flow *flow, const struct segment *segment) {
  return flow->flags & FLOW_STARTED && flow->first == segment->seq + 1;
}

static __always_inline bool is_unread(const struct guest_flow *flow) {
  return flow->stamp.state == STATE_HELLO && flow->next == flow->first && !(flow->flags & FLOW_RESET);
}

static __always_inline bool may_be_again(const struct guest_flow *flow) {
  return flow->stamp.state == STATE_OPEN || is_unread(flow);
}

static __always_inline bool may_begin_anew(const struct guest_flow *flow, const struct segment *segment, __u64 now_ns) {
  if (!(flow->flags & FLOW_STARTED) || is_before(flow->sent, segment->seq + 1))
    return 1;
  return is_again(flow, segment) ? is_unread(flow) : now_ns - flow->used_ns > FORGOTTEN_NS;
}

/* What passed of a connection whose bytes are not inspected any more. */
static __always_inline void note_sent(struct guest_flow *flow, const struct packet *packet,
                                      const struct segment *segment) {
  __u32 end = end_of(segment, packet);

  if (segment->flags & FIN && (!(flow->flags & FLOW_SENT_FIN) || is_before(end, flow->fin))) {
    flow->fin = end;
    flow->flags |= FLOW_SENT_FIN;
  }
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
