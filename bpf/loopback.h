/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A workload talks to its own sockets on loopback without a rule, and to nobody else's. */
#pragma once

#include "stamp.h"

enum { LOOPBACK_INDEX = 1 }; /* of lo, in every network namespace */
enum owner { OWNER_NOBODY = 0, OWNER_SELF = 1, OWNER_OTHER = 2, OWNER_GATE = 3 };

/* Who would receive what goes from flow->source to flow->address. */
static __always_inline enum owner loopback_owner(void *ctx, const struct flow *flow, __u64 workload) {
  struct bpf_sock_tuple tuple = {};
  enum owner owner = OWNER_OTHER;
  struct stamp *stamp;
  struct bpf_sock *sk;

  if (is_v4(flow->address)) {
    tuple.ipv4.saddr = flow->source[3] ?: LOOPBACK_V4;
    tuple.ipv4.daddr = flow->address[3];
    tuple.ipv4.sport = flow->source_port;
    tuple.ipv4.dport = flow->port;
    if (flow->protocol == IPPROTO_TCP)
      sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
    else
      sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
  } else {
    tuple.ipv6.saddr[3] = bpf_htonl(1);
    tuple.ipv6.daddr[3] = flow->address[3];
    tuple.ipv6.sport = flow->source_port;
    tuple.ipv6.dport = flow->port;
    if (flow->protocol == IPPROTO_TCP)
      sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
    else
      sk = bpf_sk_lookup_udp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
  }
  if (!sk)
    return OWNER_NOBODY;
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (stamp && stamp->workload == workload)
    owner = OWNER_SELF;
  else if (sk->priority == GATE_PRIORITY)
    owner = OWNER_GATE;
  bpf_sk_release(sk);
  return owner;
}

/* Own sockets need no rule, and no rule opens another workload's gate. */
static __always_inline void judge_loopback(void *ctx, const struct flow *flow, __u64 workload, struct judgement *ret) {
  bool is_allowed = ret->outcome == ALLOW;

  switch (loopback_owner(ctx, flow, workload)) {
  case OWNER_GATE:
    return deny(ret, GATE_NOT_OWN);
  case OWNER_SELF:
    if (is_allowed)
      return;
    ret->outcome = ALLOW;
    ret->reason = OWN_LOOPBACK;
    ret->rule_id = 0;
    ret->until_ns = NEVER;
    return;
  case OWNER_NOBODY:
    if (!is_allowed)
      deny(ret, LOOPBACK_NOBODY);
    return;
  default:
    if (!is_allowed)
      deny(ret, LOOPBACK_NOT_OWN);
  }
}
