/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is written to a watched socket: held until the whole ClientHello is there, then judged by its name. Later writes
 * are followed by flight.h. */
#pragma once

#include "flight.h"
#include "hello.h"

enum { MESSAGE_MAX = HELLO_MAX + RECORDS_MAX * RECORD_HEADER };
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

/* The name of a whole, well-formed hello: the first is asked of the policy, a second must repeat it. */
static __always_inline void judge_hello(struct sk_msg_md *msg, struct stamp *stamp, struct scratch *scratch,
                                        bool is_first, __u64 now_ns, struct judgement *ret) {
  struct verified_name *verified = names.sk_storage_get(msg->sk, 0, is_first ? BPF_SK_STORAGE_GET_F_CREATE : 0);
  __u64 until_ns = ret->until_ns;

  if (!verified)
    return deny(ret, STAMP_MISSING);
  if (!is_first && !is_same_name(verified, &scratch->name))
    return deny(ret, NAME_CHANGED);
  if (ret->outcome == ASK_NAME) {
    judge_name(ret->names_id, &scratch->name, now_ns, ret);
    if (ret->outcome == ALLOW && until_ns < ret->until_ns)
      ret->until_ns = until_ns;
  }
  if (is_first)
    __builtin_memcpy(verified, &scratch->name, sizeof(*verified));
}

static __always_inline void flow_of(const struct stamp *stamp, struct flow *ret) {
  copy_address(ret->address, stamp->address);
  ret->port = stamp->destination;
  ret->protocol = IPPROTO_TCP;
}

static __always_inline int inspect(struct sk_msg_md *msg, struct stamp *stamp, __u8 refused, struct telling *telling) {
  __u32 size = telling->bytes;
  struct stream stream = {.length = size < MESSAGE_MAX ? size : MESSAGE_MAX};
  struct judgement judgement = {};
  struct scratch *scratch = 0;
  struct hello hello = {};
  struct standing standing;
  struct flow flow = {};
  int action = SK_DROP;
  bool is_first;
  __u32 slot = 0;

  hello.reason = refused;
  if (!refused) {
    scratch = claim_scratch(stamp->cookie, &slot);
    if (!scratch)
      hello.reason = BUSY;
    else if (bpf_msg_pull_data(msg, 0, stream.length, 0))
      hello.reason = HELPER_FAILED;
    else {
      stream.data = msg->data;
      stream.length = msg->data_end - msg->data;
      read_hello(&stream, scratch);
      hello = scratch->reading;
    }
    if (scratch && !hello.reason && !hello.is_complete) {
      claims.delete(&slot);
      return hold(msg, hello.need);
    }
  }
  is_first = stamp->state == STATE_HELLO; /* asked only now: the verifier would read the hello twice, once for each */
  find_standing(stamp->workload, telling->started_ns, &standing);
  flow_of(stamp, &flow);
  judge_standing(&standing, &flow, telling->started_ns, &judgement);
  telling->bytes = hello.consumed ?: size;
  telling->scratch = scratch;
  telling->name_at = hello.name_at;
  telling->name_length = hello.name_length;
  if (hello.reason && judgement.outcome != ALLOW)
    deny(&judgement, judgement.outcome == DENY ? judgement.reason : hello.reason);
  else if (scratch && !hello.reason)
    judge_hello(msg, stamp, scratch, is_first, telling->started_ns, &judgement);

  if (!is_first && judgement.outcome == ALLOW) {
    action = SK_PASS; /* the same name again: told already */
  } else if (settle(stamp, &standing, &judgement, &flow, telling)) {
    action = SK_PASS;
    if (judgement.outcome == DENY)
      judgement.until_ns = NEVER;
    set_destination(stamp, &standing, &judgement, &flow, hello.reason ? STATE_OPEN : STATE_WATCHED);
  } else {
    stamp->state = STATE_DENIED;
  }
  if (action == SK_PASS && !hello.reason) {
    stamp->has_early_data |= hello.has_early_data;
    pass_bytes(msg, stamp, size, hello.consumed);
  }
  if (scratch)
    claims.delete(&slot);
  return action;
}

int on_message(struct sk_msg_md *msg) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = HOOK_HELLO, .bytes = msg->size};
  struct bpf_sock *sk = msg->sk;
  struct stamp *stamp;
  int action = SK_DROP;
  __u8 refused = 0;

  /* What an earlier run asked for stays in the message, and would count for its rest as well: a record would pass in
   * part and its payload be taken for the next header. */
  bpf_msg_apply_bytes(msg, 0);
  bpf_msg_cork_bytes(msg, 0);
  if (!sk)
    return SK_DROP;
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp)
    return SK_DROP;
  if (stamp->state == STATE_OPEN || stamp->state == STATE_VERIFIED)
    return SK_PASS;
  if ((stamp->state == STATE_WATCHED || stamp->state == STATE_HELLO) && !is_in_step(msg, stamp)) {
    refused = UNVERIFIED_DATA;
  } else if (stamp->state == STATE_WATCHED) {
    switch (follow(msg, stamp, telling.bytes, &action, &refused)) {
    case FLIGHT_SETTLED:
      return action;
    case FLIGHT_HELLO:
      refused = 0;
      break;
    default:
      break;
    }
  } else if (stamp->state != STATE_HELLO) {
    return SK_DROP;
  }
  return inspect(msg, stamp, refused, &telling);
}
