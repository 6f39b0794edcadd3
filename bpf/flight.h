/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a client writes after its hello: followed record by record, until its second flight shows that no second hello
 * can come. A server may ask for one (HelloRetryRequest), and OpenSSL then serves the second one's name. */
#pragma once

#include "hello.h"
#include "stamp.h"
#include "kernel_memory.h"

enum { WALK_MAX = 24 };                    /* records in one message before it is settled: clients write one or two */
enum { WATCH_HEADER = RECORD_HEADER + 6 }; /* a record's header, and type, length and major version of a handshake */
enum { CCS_RECORD = RECORD_HEADER + 1 };
enum { SHORTEST_FINISHED = 32 }; /* TLS 1.2, AES-CCM-8: 8 nonce + 16 message + 8 tag */

/* A plaintext record of type handshake after the first hello: a second hello, or TLS 1.2 going on? After a change of
 * cipher it may also be an encrypted Finished, whose bytes are random: by length, or else by three bytes of a
 * hello's header, mistaken once in five million. */
static __always_inline bool is_like_hello(const __u8 *header, __u32 length, bool after_ccs) {
  if (header[RECORD_HEADER] != CLIENT_HELLO)
    return 0;
  return !after_ccs || length < SHORTEST_FINISHED || (header[6] <= 2 && header[9] == 3);
}

enum flight { FLIGHT_PASSES = 0, FLIGHT_HELLO = 1, FLIGHT_HELD = 2, FLIGHT_REFUSED = 3 };

/* The records of a message, or of what is held of a connection, from `walk->at` on, up to a hello or to what shows that
 * none can come. One of `msg` and `stream` is 0, as is known at compile time. */
static __always_inline enum flight walk_records(struct sk_msg_md *msg, const struct stream *stream,
                                                volatile struct walk *walk, __u32 size) {
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
    if (stream) {
      if (read_stream(stream, at, header, want))
        return FLIGHT_REFUSED;
    } else if (bpf_msg_pull_data(msg, at, at + want, 0) || read_kernel(header, want, msg->data)) {
      return FLIGHT_REFUSED;
    }
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

/* A whole hello may be followed, in the same message, by records of early data: not by another hello. Returns whether
 * the message must be held; why it is refused, if it is, stands in the walk, where the verifier does not follow it. */
static __always_inline bool must_hold_behind(struct sk_msg_md *msg, const struct stream *stream,
                                             volatile struct walk *walk, __u32 size, const struct hello *hello) {
  enum flight flight;

  walk->at += hello->consumed;
  walk->has_early_data |= hello->has_early_data;
  flight = walk_records(msg, stream, walk, size);
  if (flight == FLIGHT_HELLO)
    walk->reason = HELLO_INTERLEAVED;
  else if (flight == FLIGHT_PASSES)
    walk->reason = 0;
  return flight == FLIGHT_HELD;
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
