/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Host names as a ClientHello may carry them (RFC 1123 2.1, RFC 6066 3). */
#pragma once

#include "records.h"

/* What the last label has turned out to be, read from its end: a server may take a number for an address. */
enum last_label { HEX_DIGITS = 0, X_BEFORE_HEX = 1, ZERO_X_HEX = 2, NO_NUMBER = 3 };

/* Writes the name into the scratch reversed and in lower case, and refuses what is no host name (RFC 1123 2.1). */
static __always_inline void begin_label(volatile struct cursor *cursor) {
  cursor->label = 0;
  cursor->before = '.';
}

/* A letter, digit or hyphen. */
static __always_inline __u8 refuse_character(volatile struct cursor *cursor, __u8 c) {
  bool is_digit = c >= '0' && c <= '9', is_letter = c >= 'a' && c <= 'z';

  if (!is_digit && !is_letter && c != '-')
    return SNI_BAD_CHARACTER;
  if ((c == '-' && cursor->label == 0) || cursor->label >= LABEL_MAX)
    return SNI_BAD_LABEL;
  if (cursor->dots == 0) {
    __u8 kind = cursor->last_label;

    if (!is_digit)
      cursor->is_decimal = 0;
    if (kind == X_BEFORE_HEX)
      cursor->last_label = c == '0' ? ZERO_X_HEX : NO_NUMBER;
    else if (kind == HEX_DIGITS && c == 'x')
      cursor->last_label = X_BEFORE_HEX;
    else if (kind != HEX_DIGITS || !(is_digit || (is_letter && c <= 'f')))
      cursor->last_label = NO_NUMBER;
  }
  cursor->label++;
  cursor->before = c;
  return 0;
}

/* The label that was read from its end is over. */
static __always_inline __u8 refuse_label(volatile struct cursor *cursor) {
  if (cursor->label == 0 || cursor->before == '-')
    return SNI_BAD_LABEL;
  if (cursor->dots == 0 && (cursor->is_decimal || cursor->last_label == ZERO_X_HEX))
    return SNI_ADDRESS;
  return 0;
}

/* Writes the name into the scratch reversed and in lower case, and refuses what is no host name. */
static __always_inline void read_name(struct scratch *scratch) {
  volatile struct cursor *cursor = &scratch->cursor;
  volatile struct hello *ret = &scratch->reading;
  __u32 length, i;

  cursor->dots = 0;
  cursor->last_label = HEX_DIGITS;
  cursor->is_decimal = 1;
  begin_label(cursor);
  for (i = 0; i < NAME_MAX; i++) {
    __u8 c, reason;

    length = ret->name_length;
    if (i >= length)
      break;
    c = u8_at(scratch, ret->name_at + length - 1 - i);
    if (c >= 'A' && c <= 'Z')
      c |= 0x20;
    scratch->name.key.reversed[i] = c;
    if (c == '.') {
      reason = refuse_label(cursor);
      cursor->dots++;
      begin_label(cursor);
    } else {
      reason = refuse_character(cursor, c);
    }
    if (reason) {
      ret->reason = reason;
      return;
    }
  }
  ret->reason = refuse_label(cursor);
  length = ret->name_length;
  if (length <= NAME_MAX)
    scratch->name.key.reversed[length] = 0;
  scratch->name.length = length;
  scratch->name.dots = cursor->dots;
  scratch->name.has_ech = ret->has_ech;
}
