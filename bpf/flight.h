/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a client writes after its hello: followed record by record, until its second flight shows that no second hello
 * can come. A server may ask for one (HelloRetryRequest), and OpenSSL then serves the second one's name. */
#pragma once

#include "records.h"
#include "stamp.h"

enum { WATCH_HEADER = RECORD_HEADER + 6 }; /* a record's header, and type, length and major version of a handshake */
enum { CCS_RECORD = RECORD_HEADER + 1 };
enum { SHORTEST_FINISHED = 32 }; /* TLS 1.2, AES-CCM-8: 8 nonce + 16 message + 8 tag */

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
