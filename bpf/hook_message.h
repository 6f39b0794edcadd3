/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is written to a watched socket: held until the whole ClientHello is there, then judged by its name. Later writes
 * are followed record by record until the client's second flight shows that no second hello can come. */
#pragma once

#include "hello.h"
#include "stamp.h"

enum { MESSAGE_MAX = HELLO_MAX + RECORDS_MAX * RECORD_HEADER };
enum { WATCH_HEADER = RECORD_HEADER + 6 }; /* a record's header, and type, length and major version of a handshake */
enum { CCS_RECORD = RECORD_HEADER + 1 };
enum { SHORTEST_FINISHED = 32 }; /* TLS 1.2, AES-CCM-8: 8 nonce + 16 message + 8 tag */

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

/* Hold the message until so many bytes of it are there. Dropped, where the kernel can hold no more fragments: a pass
 * would let it go unread. */
static __always_inline int hold(struct sk_msg_md *msg, __u32 bytes) {
  bpf_msg_cork_bytes(msg, bytes);
  return SK_DROP;
}

/* Lets so many bytes of the message pass; the rest comes back to us. */
static __always_inline int pass_bytes(struct sk_msg_md *msg, struct stamp *stamp, __u32 size, __u32 bytes) {
  if (bytes < size)
    bpf_msg_apply_bytes(msg, bytes);
  stamp->passed += bytes < size ? bytes : size;
  return SK_PASS;
}

static __always_inline int pass_record(struct sk_msg_md *msg, struct stamp *stamp, __u32 size, __u32 length) {
  stamp->skip = length > size ? length - size : 0;
  return pass_bytes(msg, stamp, size, length);
}

/* Whether the send queue holds exactly what passed here. A send() that began before the socket was watched goes on past
 * us (it sleeps inside the kernel until the handshake is over), and a send that failed half-way would leave us out of
 * step with the server: either would put bytes before the server that nobody judged. */
static __always_inline bool is_in_step(struct sk_msg_md *msg, const struct stamp *stamp) {
  void *tcp = bpf_skc_to_tcp_sock(msg->sk);
  __u32 write_seq;

  if (!tcp || bpf_probe_read_kernel(&write_seq, sizeof(write_seq), tcp + TCP_SOCK_WRITE_SEQ))
    return 0;
  return write_seq - stamp->first_seq == stamp->passed;
}

/* A plaintext record of type handshake after the first hello: a second hello, or TLS 1.2 going on? After a change of
 * cipher it may also be an encrypted Finished, whose bytes are random: by length, or else by three bytes of a
 * hello's header, mistaken once in five million. */
static __always_inline bool is_like_hello(const __u8 *header, __u32 length, bool after_ccs) {
  if (header[RECORD_HEADER] != CLIENT_HELLO)
    return 0;
  return !after_ccs || length < SHORTEST_FINISHED || (header[6] <= 2 && header[9] == 3);
}

enum second_flight { FLIGHT_SETTLED = 0, FLIGHT_HELLO = 1, FLIGHT_REFUSED = 2 };

/* One record of a connection whose name is verified. `ret_action` is what to return when settled. */
static __always_inline enum second_flight follow(struct sk_msg_md *msg, struct stamp *stamp, __u32 size,
                                                 int *ret_action, __u8 *ret_reason) {
  __u8 header[WATCH_HEADER + 1] = {};
  __u32 length, want = size < WATCH_HEADER ? CCS_RECORD : WATCH_HEADER;

  *ret_action = SK_PASS;
  if (stamp->skip) {
    *ret_action = pass_record(msg, stamp, size, stamp->skip);
    return FLIGHT_SETTLED;
  }
  if (size < CCS_RECORD) {
    *ret_action = hold(msg, CCS_RECORD);
    return FLIGHT_SETTLED;
  }
  *ret_reason = HELPER_FAILED;
  if (bpf_msg_pull_data(msg, 0, want, 0) || bpf_probe_read_kernel(header, want, msg->data))
    return FLIGHT_REFUSED;
  length = (__u32)header[3] << 8 | header[4];
  *ret_reason = HELLO_INTERLEAVED;
  if (header[1] != 3 || length == 0)
    return FLIGHT_REFUSED;
  switch (header[0]) {
  case RECORD_CCS:
    if (length != 1)
      return FLIGHT_REFUSED;
    stamp->after_ccs = 1;
    *ret_action = pass_record(msg, stamp, size, RECORD_HEADER + length);
    return FLIGHT_SETTLED;
  case RECORD_ALERT:
    *ret_action = pass_record(msg, stamp, size, RECORD_HEADER + length);
    return FLIGHT_SETTLED;
  case RECORD_DATA:
    if (stamp->has_early_data)
      *ret_action = pass_record(msg, stamp, size, RECORD_HEADER + length);
    else
      stamp->state = STATE_VERIFIED;
    return FLIGHT_SETTLED;
  case RECORD_HANDSHAKE:
    if (header[RECORD_HEADER] == CLIENT_HELLO && length >= 6 && size < WATCH_HEADER) {
      *ret_action = hold(msg, WATCH_HEADER);
      return FLIGHT_SETTLED;
    }
    if (is_like_hello(header, length, stamp->after_ccs))
      return FLIGHT_HELLO;
    stamp->state = STATE_VERIFIED;
    return FLIGHT_SETTLED;
  }
  return FLIGHT_REFUSED;
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

static __always_inline int inspect(struct sk_msg_md *msg, struct stamp *stamp, bool is_first, __u8 refused,
                                   struct telling *telling) {
  __u32 size = telling->bytes;
  struct stream stream = {.length = size < MESSAGE_MAX ? size : MESSAGE_MAX};
  struct judgement judgement = {};
  struct scratch *scratch = 0;
  struct hello hello = {};
  struct standing standing;
  struct flow flow = {};
  int action = SK_DROP;
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
  bool is_first = 1;
  struct stamp *stamp;
  int action = SK_DROP;
  __u8 refused = 0;

  if (!sk)
    return SK_DROP;
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp)
    return SK_DROP;
  if (stamp->state == STATE_OPEN || stamp->state == STATE_VERIFIED)
    return SK_PASS;
  if ((stamp->state == STATE_WATCHED || stamp->state == STATE_HELLO) && !is_in_step(msg, stamp)) {
    is_first = stamp->state == STATE_HELLO;
    refused = UNVERIFIED_DATA;
  } else if (stamp->state == STATE_WATCHED) {
    is_first = 0;
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
  return inspect(msg, stamp, is_first, refused, &telling);
}
