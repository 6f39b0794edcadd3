/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The bytes of a stream that were inspected: kept until the server has acknowledged them, so that no other copy of them
 * ever passes. */
#pragma once

#include "guest_flow.h"
#include "guest_sum.h"
#include "kernel_memory.h"

enum { HOLD_TRIES = 16, STUCK_NS = 1000000000 };
enum { BLOCK = 32, PIECE = 1024, SUM_PIECE = 512 /* the longest that bpf_csum_diff took before Linux 6.12 */ };

/* The payload into the scratch, with zeros behind it. */
static __always_inline bool read_payload(struct __sk_buff *skb, __u32 at, __u32 size, struct scratch *scratch) {
  __u32 length = ((size - 1) & (HOLD_BYTES - 1)) + 1;

  if (size == 0 || size > HOLD_BYTES || bpf_skb_load_bytes(skb, at, scratch->hello, length))
    return 0;
  __builtin_memset(&scratch->hello[length], 0, sizeof(__u64));
  return 1;
}

/* Whether the server will find the segment's checksum right. Its payload is in the scratch. */
static __always_inline bool is_sum_right(struct __sk_buff *skb, const struct packet *packet,
                                         const struct segment *segment, const struct scratch *scratch) {
  __u32 size = packet->flow.payload, length = ((segment->size - 1) & 63) + 1, i;
  __be32 header[16] = {};
  __s64 sum;

  if (is_summed_later(skb))
    return 1;
  if (bpf_skb_load_bytes(skb, segment->at, header, length))
    return 0;
  sum = sum_of_ends(packet->flow.source, packet->flow.address, segment->size + size, IPPROTO_TCP);
  sum = bpf_csum_diff(0, 0, header, sizeof(header), sum);
  for (i = 0; i < HOLD_BYTES / SUM_PIECE; i++) {
    __u32 at = i * SUM_PIECE, left = size - at;

    if (at >= size)
      break;
    if (left > SUM_PIECE)
      left = SUM_PIECE;
    left = (left + 3) & 0x3fc;
    sum = bpf_csum_diff(0, 0, (__be32 *)&scratch->hello[at & (HOLD_BYTES - 1)], left, sum);
  }
  return folded(sum) == 0xffff;
}

static __always_inline __u64 difference(const struct hold *hold, __u32 offset, const struct scratch *scratch,
                                        __u32 at) {
  return *(__u64 *)&scratch->hello[at & (HOLD_BYTES - 1)] ^ *(__u64 *)&hold->bytes[(offset + at) & (HOLD_BYTES - 1)];
}

/* Whether the payload repeats what is held from there on, for so many bytes. Without branches: the verifier remembers
 * at most 8,192 of those at a time. */
static __always_inline bool is_copy(const struct hold *hold, __u32 offset, const struct scratch *scratch, __u32 size) {
  __u64 differs = 0;
  __u32 i, at = 0;

  for (i = 0; i < HOLD_BYTES / BLOCK; i++) {
    at = i * BLOCK;
    if (at + BLOCK > size)
      break;
    differs |= difference(hold, offset, scratch, at) | difference(hold, offset, scratch, at + 8) |
               difference(hold, offset, scratch, at + 16) | difference(hold, offset, scratch, at + 24);
  }
  at = size & ~(BLOCK - 1);
  for (i = 0; i < BLOCK; i++) {
    if (at + i >= size)
      break;
    differs |= scratch->hello[(at + i) & (HOLD_BYTES - 1)] ^ hold->bytes[(offset + at + i) & (HOLD_BYTES - 1)];
  }
  return differs == 0;
}

/* Puts the payload, from `from` on, behind what is held. */
static __always_inline void append(struct hold *hold, const struct scratch *scratch, __u32 from, __u32 size) {
  __u32 i;

  for (i = 0; i < HOLD_BYTES / PIECE; i++) {
    __u32 at = i * PIECE, left = size - at;

    if (at >= size)
      break;
    if (left > PIECE)
      left = PIECE;
    left = ((left - 1) & (PIECE - 1)) + 1;
    read_kernel(&hold->bytes[(hold->length + at) & (HOLD_BYTES - 1)], left,
                &scratch->hello[(from + at) & (HOLD_BYTES - 1)]);
  }
}

/* Whether a claimed place can be had: its flow has ended or has not moved for long. Then that flow, which knows that it
 * had one, is cut when it next speaks. */
static __always_inline bool is_abandoned(const struct place_key *at, __u64 now_ns) {
  struct flow_key *owner = hold_places.lookup((struct place_key *)at);
  struct hold *hold = holds.lookup((struct place_key *)at);
  struct guest_flow *flow;

  if (!owner || !hold)
    return 0;
  flow = flows.lookup(owner);
  return !flow || has_ended(flow, now_ns) || now_ns - hold->used_ns > STUCK_NS;
}

/* A place for another flow's bytes; GUEST_HOLDS: there is none now. */
static __always_inline __u32 claim_hold(struct guest *guest, const struct flow_key *key, __u64 now_ns) {
  struct place_key at = {.workload = key->workload};
  __u32 i, first = guest->holds;
  struct flow_key *owner;
  struct flow_key idle;

  for (i = 0; i < HOLD_TRIES; i++) {
    at.place = (first + i) & (GUEST_HOLDS - 1);
    if (hold_places.insert(&at, (struct flow_key *)key))
      continue;
    guest->holds = at.place;
    return at.place;
  }
  guest->holds = first + HOLD_TRIES;
  for (i = 0; i < HOLD_TRIES; i++) {
    at.place = (first + i) & (GUEST_HOLDS - 1);
    if (is_abandoned(&at, now_ns))
      break;
  }
  owner = hold_places.lookup(&at);
  if (i == HOLD_TRIES || !owner)
    return GUEST_HOLDS;
  __builtin_memcpy(&idle, owner, sizeof(idle));
  if (!lock_flow(&idle))
    return GUEST_HOLDS;
  hold_places.delete(&at);
  unlock_flow(&idle);
  return hold_places.insert(&at, (struct flow_key *)key) ? GUEST_HOLDS : at.place;
}

/* A flow's hold, if it has one. */
static __always_inline struct hold *hold_of(const struct flow_key *key, const struct guest_flow *flow) {
  struct place_key at = {};

  return is_held(key, flow, &at) ? holds.lookup(&at) : 0;
}

/* Has a flow that has no hold get one, if there is room. */
static __always_inline void begin_hold(struct guest *guest, const struct flow_key *key, struct guest_flow *flow,
                                       __u64 now_ns) {
  struct place_key at = {.workload = key->workload};
  struct blank *empty = blank();
  struct hold *hold;

  at.place = claim_hold(guest, key, now_ns);
  if (!empty || at.place >= GUEST_HOLDS)
    return;
  hold = holds.lookup(&at);
  if (hold) {
    hold->length = 0;
  } else if (holds.update(&at, &empty->hold)) {
    hold_places.delete(&at);
    return;
  }
  flow->hold_place = at.place;
  flow->flags |= FLOW_HELD;
  flow->base = flow->next;
}
