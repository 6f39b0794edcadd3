/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Host names as a ClientHello may carry them (RFC 1123 2.1, RFC 6066 3). */
#pragma once

#include "records.h"

/* What the last label has turned out to be, read from its end: a server may take a number for an address. */
enum last_label { HEX_DIGITS = 0, X_BEFORE_HEX = 1, ZERO_X_HEX = 2, NO_NUMBER = 3 };

/* Without a branch, which the verifier would follow for each character: bit 31 is set where both differences are below
 * zero. */
static __always_inline __u8 lower(__u32 c) {
  return c | ((('A' - 1 - c) & (c - 'Z' - 1)) >> 26 & 0x20);
}

static __always_inline void begin_label(volatile struct cursor *cursor) {
  cursor->label = 0;
  cursor->before = '.';
}

/* A letter, digit or hyphen. Why it is refused goes to memory, here and below, not to a register: the verifier would
 * follow each value through the rest. */
static __always_inline void read_character(volatile struct cursor *cursor, volatile __u8 *ret_reason, __u8 c) {
  bool is_digit = c >= '0' && c <= '9', is_letter = c >= 'a' && c <= 'z';

  if ((c == '-' && cursor->label == 0) || cursor->label >= LABEL_MAX)
    *ret_reason = SNI_BAD_LABEL;
  if (!is_digit && !is_letter && c != '-')
    *ret_reason = SNI_BAD_CHARACTER;
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
}

/* The label that was read from its end is over. */
static __always_inline void end_label(volatile struct cursor *cursor, volatile __u8 *ret_reason) {
  if (cursor->dots == 0 && (cursor->is_decimal || cursor->last_label == ZERO_X_HEX))
    *ret_reason = SNI_ADDRESS;
  if (cursor->label == 0 || cursor->before == '-')
    *ret_reason = SNI_BAD_LABEL;
}

/* Writes the name into the scratch reversed and in lower case, and refuses what is no host name (RFC 1123 2.1). */
static __always_inline void read_name(struct scratch *scratch) {
  volatile struct cursor *cursor = &scratch->cursor;
  volatile struct hello *ret = &scratch->reading;
  __u32 length, i;

  __builtin_memset(&scratch->name, 0, sizeof(scratch->name)); /* as a key of grants it is compared to its end */
  cursor->dots = 0;
  cursor->last_label = HEX_DIGITS;
  cursor->is_decimal = 1;
  begin_label(cursor);
  for (i = 0; i < NAME_MAX; i++) {
    __u8 c;

    length = ret->name_length;
    if (i >= length || ret->reason)
      break;
    c = u8_at(scratch, ret->name_at + length - 1 - i);
    c = lower(c);
    scratch->name.key.reversed[i] = c;
    if (c == '.') {
      end_label(cursor, &ret->reason);
      cursor->dots++;
      begin_label(cursor);
    } else {
      read_character(cursor, &ret->reason, c);
    }
  }
  if (ret->reason)
    return;
  end_label(cursor, &ret->reason);
  scratch->name.length = ret->name_length;
  scratch->name.dots = cursor->dots;
  scratch->name.has_ech = ret->has_ech;
}
