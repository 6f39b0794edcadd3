/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a packet is laid out while it is judged: the stack has no room for it. */
#pragma once

#include "guest_reply.h"
#include "verify.h"

enum { BENCH_AT = HELLO_MAX + HELLO_MAX / 2 }; /* in a scratch, behind all that a hello can take up */

/* What becomes of a packet that was judged: where the program goes on, or that it passes or not. */
enum next {
  NEXT_PASS = 0,
  NEXT_DROP = 1,
  NEXT_REFUSE = 2,
  NEXT_HELLO = 3,
  NEXT_BYTES = 4,
  NEXT_WALK = 5,
  NEXT_READ = 6,
  NEXT_NAME = 7
};

/* Where a segment's bytes stand beside those that are held. Volatile, so that the verifier takes each value for any. */
struct span {
  __u32 taken;  /* how many of them there is room for */
  __u32 offset; /* of the first, in the hold */
  __u32 held;   /* how many bytes the hold has */
  __u32 known;  /* how many of the segment's it has already */
};

struct bench {
  struct flow_key key;
  struct packet packet;
  struct segment segment;
  struct telling telling;
  struct standing standing;
  struct judgement judgement;
  volatile struct span span;
  struct hello hello;
  __u32 at;       /* where in the hold the hello begins */
  __u32 ahead;    /* where in the hold the first record begins that was not read */
  __u32 length;   /* of the hold, with the bytes that are to be inspected */
  bool is_locked; /* the flow, by this packet */
  bool is_cut;    /* the segment has more than the hold has room for: it passes if nothing there need be inspected */
};

static __always_inline struct bench *clear_bench(struct __sk_buff *skb, struct scratch *scratch) {
  struct bench *on = (struct bench *)&scratch->hello[BENCH_AT];

  __builtin_memset(on, 0, sizeof(*on));
  on->telling.hook = HOOK_GUEST;
  on->telling.bytes = skb->len > ETH_HLEN ? skb->len - ETH_HLEN : 0;
  return on;
}

/* So that no segment dies before the server, having been read here. */
static __always_inline void set_hops(struct __sk_buff *skb) {
  __u8 hops = HOPS;
  __be16 old, new;

  if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
    bpf_skb_store_bytes(skb, ETH_HLEN + 7, &hops, 1, 0);
    return;
  }
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &old, 2))
    return;
  new = bpf_htons(HOPS << 8 | (bpf_ntohs(old) & 0xff));
  if (old == new)
    return;
  bpf_l3_csum_replace(skb, ETH_HLEN + 10, old, new, 2);
  bpf_skb_store_bytes(skb, ETH_HLEN + 8, &hops, 1, 0);
}
