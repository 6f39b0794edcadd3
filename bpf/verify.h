/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A whole hello against the policy, and the buffer that it is read in. */
#pragma once

#include "hello.h"
#include "stamp.h"

enum { FAMILY_INET = 2 };

/* Claims a buffer that nobody else writes to, whoever preempts whom. */
static __always_inline struct scratch *claim_scratch(__u64 cookie, __u32 *ret_slot) {
  __u32 slot = bpf_get_smp_processor_id() * SCRATCH_TRIES, i;

  for (i = 0; i < SCRATCH_TRIES; i++) {
    __u32 candidate = (slot + i) & (SCRATCHES - 1);
    int taken = claims.insert(&candidate, &cookie);

    if (taken == 0) {
      *ret_slot = candidate;
      return scratches.lookup(&candidate);
    }
  }
  return 0;
}

static __always_inline bool is_same_name(const struct verified_name *a, const struct verified_name *b) {
  __u32 i;

  if (a->length != b->length)
    return 0;
  for (i = 0; i < NAME_MAX; i++) {
    /* Read anew each time: the compiler folds the two bounds into one count, which Linux 6.1's verifier loses. */
    if (i >= *(const volatile __u16 *)&a->length)
      break;
    if (a->key.reversed[i] != b->key.reversed[i])
      return 0;
  }
  return 1;
}

/* What was granted is asked with the name: the address alone was judged at connect. */
static __always_inline void judge_destination_of_hello(const struct standing *standing, const struct flow *flow,
                                                       __u64 now_ns, struct judgement *ret) {
  if (standing->reason)
    return deny(ret, standing->reason);
  judge_network(standing->policy_id, flow, now_ns, ret);
  if (standing->has_hosts && ret->outcome == DENY && may_be_granted(ret))
    ret->outcome = ASK_NAME;
}

/* The name of a whole, well-formed hello: the first is asked of the policy, a second must repeat it. */
static __always_inline void judge_hello(struct verified_name *verified, const struct standing *standing,
                                        const struct flow *flow, struct scratch *scratch, bool is_first, __u64 now_ns,
                                        struct judgement *ret) {
  if (!verified)
    return deny(ret, STAMP_MISSING);
  if (!is_first && !is_same_name(verified, &scratch->name))
    return deny(ret, NAME_CHANGED);
  if (ret->outcome == ASK_NAME)
    judge_name(standing, flow, &scratch->name, now_ns, !is_first, ret);
  if (is_first)
    __builtin_memcpy(verified, &scratch->name, sizeof(*verified));
}

static __always_inline void flow_of(const struct stamp *stamp, const struct telling *telling, struct flow *ret) {
  copy_address(ret->address, stamp->address);
  copy_address(ret->source, telling->source);
  ret->port = stamp->destination;
  ret->source_port = telling->source_port;
  ret->protocol = IPPROTO_TCP;
}

/* Reads a field of the context in place: the compiler may otherwise add the field's offset to the context first, which
 * the verifier refuses. */
#define FIELD_OF(_context, _field)     \
  ({                                   \
    __u32 _value = (_context)->_field; \
    asm volatile("" : "+r"(_value));   \
    _value;                            \
  })

static __always_inline void read_source(struct sk_msg_md *msg, struct telling *ret) {
  __u32 v4 = FIELD_OF(msg, local_ip4);

  ret->source[0] = FIELD_OF(msg, local_ip6[0]);
  ret->source[1] = FIELD_OF(msg, local_ip6[1]);
  ret->source[2] = FIELD_OF(msg, local_ip6[2]);
  ret->source[3] = FIELD_OF(msg, local_ip6[3]);
  ret->source_port = bpf_htons(FIELD_OF(msg, local_port));
  if (FIELD_OF(msg, family) == FAMILY_INET)
    set_v4(ret->source, v4);
}
