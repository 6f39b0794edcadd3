/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads a ClientHello (RFC 8446 4.1.2, RFC 6066 3) out of a stream of TLS records. Strict: whatever two real servers
 * could read differently is refused, each with its own reason. Knows no policy. */
#pragma once

#include "hostname.h"
#include "records.h"

enum extension_type {
  EXTENSION_SERVER_NAME = 0,
  EXTENSION_EARLY_DATA = 42,
  EXTENSION_ESNI = 0xffce,
  EXTENSION_ECH = 0xfe0d,
};
enum { HOST_NAME = 0 };

static __always_inline void read_server_name(struct scratch *scratch, __u32 at, __u32 length) {
  volatile struct hello *ret = &scratch->reading;
  __u32 listed, name_length;

  if (ret->name_at) {
    ret->reason = SNI_SEVERAL;
    return;
  }
  if (length < 5) {
    ret->reason = SNI_MALFORMED;
    return;
  }
  listed = u16_at(scratch, at);
  if (listed != length - 2) {
    ret->reason = SNI_MALFORMED;
    return;
  }
  if (u8_at(scratch, at + 2) != HOST_NAME) {
    ret->reason = SNI_NOT_HOST_NAME; /* Go and GnuTLS would go on to a second entry and use that */
    return;
  }
  name_length = u16_at(scratch, at + 3);
  if (name_length == 0 || 3 + name_length > listed) {
    ret->reason = SNI_MALFORMED;
    return;
  }
  if (3 + name_length < listed) {
    ret->reason = SNI_SEVERAL;
    return;
  }
  if (name_length > NAME_MAX) {
    ret->reason = SNI_TOO_LONG;
    return;
  }
  ret->name_at = at + 5;
  ret->name_length = name_length;
}

/* Walks the fields and extensions of a whole hello. Nothing is searched for: each length must fit its parent's. */
static __always_inline void parse_hello(struct scratch *scratch) {
  volatile struct cursor *cursor = &scratch->cursor;
  volatile struct hello *ret = &scratch->reading;
  __u32 at, end = ret->length, i, j, size;

  ret->reason = HELLO_MALFORMED;
  if (end < 4 + 2 + 32 + 1)
    return;
  if (u8_at(scratch, 4) != 3) {
    ret->reason = TLS_VERSION;
    return;
  }
  size = u8_at(scratch, 38);
  if (size > 32) /* Go reads 33, OpenSSL does not */
    return;
  at = 39 + size;
  if (at + 2 > end)
    return;
  size = u16_at(scratch, at);
  if (size < 2 || (size & 1))
    return;
  at += 2 + size;
  if (at + 1 > end)
    return;
  size = u8_at(scratch, at);
  at += 1 + size;
  if (size == 0 || at > end)
    return;
  if (u8_at(scratch, at - 1) != 0) /* "no compression" stands last, and alone since TLS 1.3 */
    return;
  if (at == end) {
    ret->reason = SNI_MISSING;
    return;
  }
  if (at + 2 > end)
    return;
  size = u16_at(scratch, at);
  at += 2;
  if (at + size != end)
    return;
  cursor->at = at;
  for (i = 0; i < EXTENSIONS_MAX; i++) {
    __u32 type, length;

    at = cursor->at;
    end = ret->length;
    if (at == end)
      break;
    if (at + 4 > end)
      return;
    type = u16_at(scratch, at);
    length = u16_at(scratch, at + 2);
    at += 4;
    if (at + length > end)
      return;
    if (type == EXTENSION_SERVER_NAME) {
      ret->reason = 0;
      read_server_name(scratch, at, length);
      if (ret->reason)
        return;
      ret->reason = HELLO_MALFORMED;
    } else {
      for (j = 0; j < EXTENSIONS_MAX; j++) {
        if (j >= i)
          break;
        if (scratch->seen[j] == type) {
          ret->reason = EXTENSION_DUPLICATE;
          return;
        }
      }
    }
    scratch->seen[i] = type;
    if (type == EXTENSION_ECH || type == EXTENSION_ESNI)
      ret->has_ech = 1;
    if (type == EXTENSION_EARLY_DATA)
      ret->has_early_data = 1;
    cursor->at = at + length;
  }
  if (cursor->at != ret->length) {
    ret->reason = EXTENSIONS_TOO_MANY;
    return;
  }
  ret->reason = ret->name_at ? 0 : SNI_MISSING;
}

static __always_inline void read_hello(const struct stream *stream, struct scratch *scratch) {
  volatile struct hello *ret = &scratch->reading;

  __builtin_memset(&scratch->reading, 0, sizeof(scratch->reading));
  gather_hello(stream, scratch);
  if (ret->reason || !ret->is_complete)
    return;
  parse_hello(scratch);
  if (ret->reason == 0)
    read_name(scratch);
}
