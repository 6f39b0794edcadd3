/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Joins the TLS records (RFC 8446 5.1) that carry a ClientHello, however it was cut. */
#pragma once

#include "maps.h"
#include "kernel_memory.h"

enum record_type { RECORD_CCS = 20, RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_DATA = 23 };
enum { CLIENT_HELLO = 1 };

/* Where the stream is read from: a message being sent, a packet, or what is held of a connection, from `start` on. One
 * of the three, known at compile time. */
struct stream {
  void *data;
  struct __sk_buff *skb;
  const __u8 *held;
  __u32 start;
  __u32 length;
};

static __always_inline int read_stream(const struct stream *stream, __u32 at, void *ret, __u32 length) {
  if (stream->skb)
    return bpf_skb_load_bytes(stream->skb, at, ret, length);
  if (stream->held) /* the mask is for the verifier: nobody reads behind `length` */
    return read_kernel(ret, length, &stream->held[(stream->start + at) & (HOLD_BYTES - 1)]);
  return read_kernel(ret, length, (void *)((__u64)stream->data + at));
}

static __always_inline __u32 u16_at(const struct scratch *scratch, __u32 at) {
  return (__u32)scratch->hello[at & (HELLO_MAX - 1)] << 8 | scratch->hello[(at + 1) & (HELLO_MAX - 1)];
}

static __always_inline __u32 u8_at(const struct scratch *scratch, __u32 at) {
  return scratch->hello[at & (HELLO_MAX - 1)];
}

/* What cannot begin a record of a hello is refused on the bytes that are there: nobody waits for more of it. */
static __always_inline __u8 refuse_record(const __u8 *header, __u32 have, bool is_first) {
  if (have >= 1 && header[0] != RECORD_HANDSHAKE) {
    if (!is_first)
      return HELLO_INTERLEAVED;
    if (have < 3 && (header[0] & 0x80))
      return 0; /* SSLv2 shows in the third byte */
    return (header[0] & 0x80) && header[2] == CLIENT_HELLO ? SSLV2_HELLO : NOT_TLS;
  }
  if (have >= 2 && header[1] != 3)
    return TLS_VERSION;
  if (have >= 3 && header[2] > 4)
    return TLS_VERSION;
  return 0;
}

/* Joins the records into the scratch until the handshake message is whole. */
static __always_inline void gather_hello(const struct stream *stream, struct scratch *scratch) {
  volatile struct cursor *cursor = &scratch->cursor;
  volatile struct hello *ret = &scratch->reading;
  __u8 header[RECORD_HEADER + 3] = {};
  __u32 i;

  cursor->at = 0;
  cursor->got = 0;
  cursor->total = 0;

  for (i = 0; i < RECORDS_MAX; i++) {
    __u32 at = cursor->at, got = cursor->got, left = stream->length - at, length, have;

    if (at > stream->length)
      left = 0;
    if (left < RECORD_HEADER) {
      ret->need = at + RECORD_HEADER;
      if (left == 0)
        return;
      header[1] = 3;
      header[2] = 0;
      if (read_stream(stream, at, header, 1)) {
        ret->reason = HELPER_FAILED;
        return;
      }
      if (left >= 3 && read_stream(stream, at, header, 3)) {
        ret->reason = HELPER_FAILED;
        return;
      }
      if (left == 2 && read_stream(stream, at, header, 2)) {
        ret->reason = HELPER_FAILED;
        return;
      }
      ret->reason = refuse_record(header, left, i == 0);
      return;
    }
    if (read_stream(stream, at, header, RECORD_HEADER)) {
      ret->reason = HELPER_FAILED;
      return;
    }
    ret->reason = refuse_record(header, RECORD_HEADER, i == 0);
    if (ret->reason)
      return;
    length = (__u32)header[3] << 8 | header[4];
    if (length == 0) {
      ret->reason = HELLO_EMPTY_RECORD;
      return;
    }
    if (length > RECORD_MAX) {
      ret->reason = HELLO_TOO_LONG;
      return;
    }
    have = left - RECORD_HEADER;
    if (have > length)
      have = length;
    if (have > HELLO_MAX - got)
      have = HELLO_MAX - got;
    if (have) {
      /* The verifier wants the bounds where they are used: neither mask changes a value. */
      __u32 size = ((have - 1) & (HELLO_MAX - 1)) + 1;

      if (read_stream(stream, at + RECORD_HEADER, &scratch->hello[got & (HELLO_MAX - 1)], size)) {
        ret->reason = HELPER_FAILED;
        return;
      }
    }
    if (got + have >= 1 && scratch->hello[0] != CLIENT_HELLO) {
      ret->reason = NOT_TLS;
      return;
    }
    if (got + have >= 4) {
      __u32 total = 4 + ((__u32)scratch->hello[1] << 16 | (__u32)scratch->hello[2] << 8 | scratch->hello[3]);
      if (total > HELLO_MAX) {
        ret->reason = HELLO_TOO_LONG;
        return;
      }
      if (got + length > total) {
        ret->reason = HELLO_TRAILING_BYTES;
        return;
      }
      cursor->total = total;
    }
    at += RECORD_HEADER + length;
    if (at > stream->length) {
      ret->need = at;
      return;
    }
    got += length;
    if (got > HELLO_MAX) { /* only before the length is known, which takes 4 bytes */
      ret->reason = HELLO_TOO_LONG;
      return;
    }
    if (got == cursor->total) {
      ret->is_complete = 1;
      ret->length = got;
      ret->consumed = at;
      return;
    }
    cursor->at = at;
    cursor->got = got;
  }
  ret->reason = HELLO_TOO_MANY_RECORDS;
}
