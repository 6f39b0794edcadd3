/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a client writes after its hello: followed record by record, until its second flight shows that no second hello
 * can come. A server may ask for one (HelloRetryRequest), and OpenSSL then serves the second one's name. */
#pragma once

#include "records.h"
#include "stamp.h"

enum { WALK_MAX = 24 };                    /* records in one message before it is settled: clients write one or two */
enum { WATCH_HEADER = RECORD_HEADER + 6 }; /* a record's header, and type, length and major version of a handshake */
enum { CCS_RECORD = RECORD_HEADER + 1 };
enum { SHORTEST_FINISHED = 32 }; /* TLS 1.2, AES-CCM-8: 8 nonce + 16 message + 8 tag */

/* Hold the message until so many bytes of it are there. Dropped, where the kernel can hold no more fragments: a pass
 * would let it go unread. */
static __always_inline int hold(struct sk_msg_md *msg, __u32 bytes) {
  bpf_msg_cork_bytes(msg, bytes);
  return SK_DROP;
}

/* Lets the whole message go. By way of a redirection to the same socket, because the kernel forgets that verdict before
 * it sends (tcp_bpf_send_verdict, 6.1 to 6.18): after a plain pass that failed, for want of memory or by a flag such as
 * MSG_FASTOPEN, it would not ask us about the next message. Never in part: the rest of a message that was cut by
 * bpf_msg_apply_bytes cannot be held, the kernel then mixes up what it has copied. */
static __always_inline int let_go(struct sk_msg_md *msg, struct stamp *stamp, __u32 size) {
  __u64 cookie = stamp->cookie;
  int action = sockets.msg_redirect_hash(msg, &cookie, 0);

  stamp->passed += size;
  return action;
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

enum flight { FLIGHT_PASSES = 0, FLIGHT_HELLO = 1, FLIGHT_HELD = 2, FLIGHT_REFUSED = 3 };

/* The records of a message from `walk->at` on, up to a hello or to what shows that none can come. */
static __always_inline enum flight walk_records(struct sk_msg_md *msg, volatile struct walk *walk, __u32 size) {
  __u32 i;

  for (i = 0; i < WALK_MAX; i++) {
    __u8 header[WATCH_HEADER + 1] = {};
    __u32 at = walk->at, skip = walk->skip, length, left, want;

    if (at > size)
      break;
    left = size - at;
    if (skip >= left) {
      walk->skip = skip - left;
      return FLIGHT_PASSES;
    }
    at += skip;
    left -= skip;
    walk->at = at;
    walk->skip = 0;
    walk->need = at + CCS_RECORD;
    if (left < CCS_RECORD)
      return FLIGHT_HELD;
    want = left < WATCH_HEADER ? CCS_RECORD : WATCH_HEADER;
    walk->reason = HELPER_FAILED;
    if (bpf_msg_pull_data(msg, at, at + want, 0) || bpf_probe_read_kernel(header, want, msg->data))
      return FLIGHT_REFUSED;
    length = (__u32)header[3] << 8 | header[4];
    walk->reason = HELLO_INTERLEAVED;
    if (header[1] != 3 || length == 0)
      return FLIGHT_REFUSED;
    if (header[0] == RECORD_CCS) {
      if (length != 1)
        return FLIGHT_REFUSED;
      walk->after_ccs = 1;
    } else if (header[0] == RECORD_HANDSHAKE) {
      walk->need = at + WATCH_HEADER;
      if (header[RECORD_HEADER] == CLIENT_HELLO && length >= 6 && left < WATCH_HEADER)
        return FLIGHT_HELD;
      if (is_like_hello(header, length, walk->after_ccs))
        return FLIGHT_HELLO;
      walk->is_settled = 1;
      return FLIGHT_PASSES;
    } else if (header[0] == RECORD_DATA && !walk->has_early_data) {
      walk->is_settled = 1;
      return FLIGHT_PASSES;
    } else if (header[0] != RECORD_ALERT && header[0] != RECORD_DATA) {
      return FLIGHT_REFUSED;
    }
    walk->skip = RECORD_HEADER + length;
  }
  walk->reason = HELLO_TOO_MANY_RECORDS;
  return FLIGHT_REFUSED;
}

/* The message goes: the stamp learns what was read in it. */
static __always_inline void keep_walk(struct stamp *stamp, const volatile struct walk *walk) {
  stamp->after_ccs = walk->after_ccs;
  stamp->has_early_data = walk->has_early_data;
  stamp->skip = walk->skip;
  if (walk->is_settled) {
    stamp->state = STATE_SETTLING;
    stamp->skip = stamp->passed + walk->at + CCS_RECORD;
  }
}
