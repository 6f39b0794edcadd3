/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Checksums, and who computes them. */
#pragma once

#include "guest_segment.h"
#include "kernel_memory.h"

static __always_inline __u16 folded(__s64 sum) {
  sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/* Whether the checksum is still to be computed, by the device that sends it: its field then holds the sum of addresses,
 * protocol and length alone. No helper tells it; one that raises the level does so only where it was computed. */
static __always_inline bool is_summed_later(struct __sk_buff *skb) {
  bpf_csum_level(skb, BPF_CSUM_LEVEL_INC);
  if (bpf_csum_level(skb, BPF_CSUM_LEVEL_QUERY) < 0)
    return 1;
  bpf_csum_level(skb, BPF_CSUM_LEVEL_RESET);
  return 0;
}

static __always_inline __s64 sum_of_ends(const __be32 *from, const __be32 *to, __u32 length, __u32 protocol) {
  __be32 ends[10];

  copy_address(ends, from);
  copy_address(ends + 4, to);
  if (is_v4(from)) { /* ::ffff: is not part of it */
    ends[2] = 0;
    ends[6] = 0;
  }
  ends[8] = bpf_htonl(length);
  ends[9] = bpf_htonl(protocol);
  return bpf_csum_diff(0, 0, ends, sizeof(ends), 0);
}

/* A guest says where its device is to write the sum: anywhere else than into the checksum's own field, it would change
 * what was inspected. 0: it is right, or nothing will be written. */
static __always_inline __u8 refuse_sum_place(struct __sk_buff *skb, __u8 protocol) {
  __u16 want = protocol == IPPROTO_TCP ? 16 : protocol == IPPROTO_UDP ? 6 : 2, place[2];
  unsigned char *ends[2];

  if (!is_summed_later(skb))
    return 0;
  if (read_kernel(ends, sizeof(ends), (void *)skb + SK_BUFF_HEAD) ||
      read_kernel(place, sizeof(place), (void *)skb + SK_BUFF_CSUM_START))
    return HELPER_FAILED;
  return ends[0] + place[0] == ends[1] + transport_at(skb) && place[1] == want ? 0 : BAD_CHECKSUM;
}
