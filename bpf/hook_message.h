/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is written to a watched socket: held until the whole ClientHello is there, then judged by its name. Later writes
 * are followed by flight.h. */
#pragma once

#include "flight.h"
#include "holding.h"
#include "meter.h"
#include "verify.h"

enum { MESSAGE_MAX = HELLO_MAX + RECORDS_MAX * RECORD_HEADER };

static __always_inline struct verified_name *verified_name_of(struct sk_msg_md *msg, bool is_first) {
  return names.sk_storage_get(msg->sk, 0, is_first ? BPF_SK_STORAGE_GET_F_CREATE : 0);
}

/* Why it is refused unread, if it is, stands in the walk: so all ways lead in here with the same registers, and the
 * verifier reads the hello once for all of them. */
static __always_inline int inspect(struct sk_msg_md *msg, struct stamp *stamp, struct scratch *scratch,
                                   struct telling *telling) {
  volatile struct walk *walk = &scratch->walk;
  __u8 refused = walk->reason;
  __u32 size = telling->bytes, at = walk->at, left = at < size ? size - at : 0;
  struct stream stream = {.length = left < MESSAGE_MAX ? left : MESSAGE_MAX};
  struct judgement judgement = {};
  struct hello hello = {};
  struct standing standing;
  struct flow flow = {};
  int action = SK_DROP;
  bool is_first;

  hello.reason = refused;
  if (!refused) {
    if (bpf_msg_pull_data(msg, at, at + stream.length, 0))
      hello.reason = HELPER_FAILED;
    else {
      stream.data = msg->data;
      stream.length = msg->data_end - msg->data;
      read_hello(&stream, scratch);
      hello = scratch->reading;
    }
    if (!hello.reason && !hello.is_complete)
      return hold(msg, at + hello.need);
    if (!hello.reason && must_hold_behind(msg, 0, walk, size, &hello))
      return hold(msg, walk->need);
  }
  is_first = stamp->state == STATE_HELLO; /* asked only now: the verifier would read the hello twice, once for each */
  find_standing(stamp->workload, telling->started_ns, &standing);
  flow_of(stamp, telling, &flow);
  judge_destination_of_hello(&standing, &flow, telling->started_ns, &judgement);
  telling->bytes = hello.consumed ?: size;
  telling->scratch = scratch;
  telling->name_at = hello.name_at;
  telling->name_length = hello.name_length;
  if (hello.reason && judgement.outcome != ALLOW)
    deny(&judgement, judgement.outcome == DENY ? judgement.reason : hello.reason);
  else if (!hello.reason) {
    bool is_named = judgement.outcome == ASK_NAME;

    judge_hello(verified_name_of(msg, is_first), &standing, &flow, scratch, is_first, telling->started_ns, &judgement);
    if (walk->reason && is_named && judgement.outcome == ALLOW) {
      hello.reason = walk->reason;
      deny(&judgement, hello.reason);
    }
  }

  /* Through memory: Linux 6.1's verifier would follow each reason to the end, beyond its million instructions. */
  walk->reason = judgement.reason;
  judgement.reason = walk->reason;
  if (judgement.reason == NAME_NOT_ALLOWED && standing.quarantines_undeclared && !stamp->is_lenient) {
    judgement.reason = UNDECLARED;
    stamp->told |= TOLD_UNDECLARED; /* the rest in on_message: here the verifier would follow it a thousand times */
  }
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
  if (action != SK_PASS || stamp->state == STATE_OPEN)
    return action;
  keep_walk(stamp, walk);
  return let_go(msg, stamp, size);
}

/* A message to a destination that wants a name. */
static __always_inline int judge_message(struct sk_msg_md *msg, struct stamp *stamp, struct scratch *scratch,
                                         struct telling *telling) {
  volatile struct walk *walk = &scratch->walk;

  walk->at = 0;
  walk->reason = 0;
  walk->is_settled = 0;
  walk->skip = stamp->skip;
  walk->after_ccs = stamp->after_ccs;
  walk->has_early_data = stamp->has_early_data;
  if (!is_in_step(msg, stamp)) {
    walk->reason = UNVERIFIED_DATA;
  } else if (stamp->state == STATE_SETTLING) {
    return let_go(msg, stamp, telling->bytes);
  } else if (stamp->state == STATE_WATCHED) {
    switch (walk_records(msg, 0, walk, telling->bytes)) {
    case FLIGHT_PASSES:
      keep_walk(stamp, walk);
      return let_go(msg, stamp, telling->bytes);
    case FLIGHT_HELD:
      return hold(msg, walk->need);
    case FLIGHT_HELLO:
      walk->reason = 0;
      break;
    default:
      break;
    }
  }
  return inspect(msg, stamp, scratch, telling);
}

/* No buffer is free to read it in. */
static __always_inline int refuse_unread(struct stamp *stamp, struct telling *telling) {
  struct judgement judgement = {.reason = BUSY, .until_ns = NEVER};
  struct standing standing;
  struct flow flow = {};

  find_standing(stamp->workload, telling->started_ns, &standing);
  flow_of(stamp, telling, &flow);
  if (!settle(stamp, &standing, &judgement, &flow, telling)) {
    stamp->state = STATE_DENIED;
    return SK_DROP;
  }
  set_destination(stamp, &standing, &judgement, &flow, STATE_OPEN);
  return SK_PASS;
}

int on_message(struct sk_msg_md *msg) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = HOOK_HELLO, .bytes = msg->size};
  struct bpf_sock *sk = msg->sk;
  struct scratch *scratch;
  struct stamp *stamp;
  int action;
  __u32 slot = 0;

  bpf_msg_cork_bytes(msg, 0); /* what an earlier run asked for stays in the message */
  if (!sk)
    return SK_DROP;
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp)
    return SK_DROP;
  if (stamp->state == STATE_OPEN || stamp->state == STATE_VERIFIED)
    return SK_PASS;
  if (stamp->state != STATE_HELLO && stamp->state != STATE_WATCHED && stamp->state != STATE_SETTLING)
    return SK_DROP;
  read_source(msg, &telling);
  scratch = claim_scratch(stamp->cookie, &slot);
  if (!scratch)
    return refuse_unread(stamp, &telling);
  action = judge_message(msg, stamp, scratch, &telling);
  claims.delete(&slot);
  if (stamp->state == STATE_DENIED && (stamp->told & TOLD_UNDECLARED))
    quarantine(stamp->workload, telling.started_ns);
  return action;
}
