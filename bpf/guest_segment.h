/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A TCP segment as far as it matters whether the server will take it. */
#pragma once

#include "guest_maps.h"
#include "packet.h"

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16, URG = 32 };
enum tcp_option { END = 0, NOTHING = 1, SEGMENT_SIZE = 2, WINDOW_SCALE = 3, MAY_SACK = 4, SACK = 5, TIMESTAMPS = 8 };
enum { OPTIONS_LOOKED_AT = 40 };

struct segment {
  __u32 at; /* of the TCP header */
  __u32 seq;
  __u32 ack;
  __u32 stamped; /* TSval */
  __u32 size;    /* of the header */
  __u8 flags;
  __u8 has_stamp;
  __u8 is_odd; /* an option that servers read differently */
};

static __always_inline __u32 transport_at(struct __sk_buff *skb) {
  return skb->protocol == bpf_htons(ETH_P_IP) ? ETH_HLEN + sizeof(struct iphdr) : ETH_HLEN + sizeof(struct ipv6hdr);
}

/* After read_packet, so the header is whole. */
static __always_inline void read_segment(struct __sk_buff *skb, struct segment *ret) {
  __u8 header[20];
  __u32 word;

  ret->at = transport_at(skb);
  if (bpf_skb_load_bytes(skb, ret->at, header, sizeof(header)))
    return;
  __builtin_memcpy(&word, header + 4, 4);
  ret->seq = bpf_ntohl(word);
  __builtin_memcpy(&word, header + 8, 4);
  ret->ack = bpf_ntohl(word);
  ret->size = (header[12] >> 4) * 4;
  ret->flags = header[13];
}

/* The options one by one. Each is read where it stands: a loop over a copy costs the verifier more. */
static __always_inline void read_options(struct __sk_buff *skb, struct segment *ret) {
  __u32 at = 20, i;

  for (i = 0; i < OPTIONS_LOOKED_AT; i++) {
    __u8 option[2];
    __u32 stamp;

    if (at >= ret->size)
      return;
    if (bpf_skb_load_bytes(skb, ret->at + at, option, 1) || option[0] == END)
      return;
    if (option[0] == NOTHING) {
      at++;
      continue;
    }
    if (at + 2 > ret->size || bpf_skb_load_bytes(skb, ret->at + at, option, 2) || option[1] < 2 ||
        at + option[1] > ret->size) {
      ret->is_odd = 1;
      return;
    }
    if (option[0] == TIMESTAMPS && option[1] == 10) {
      if (bpf_skb_load_bytes(skb, ret->at + at + 2, &stamp, 4))
        return;
      ret->stamped = bpf_ntohl(stamp);
      ret->has_stamp = 1;
    } else if (option[0] > SACK) {
      ret->is_odd = 1;
    }
    at += option[1];
  }
}

/* Behind it in the order of sequence numbers: payload, SYN and FIN count. */
static __always_inline __u32 end_of(const struct segment *segment, const struct packet *packet) {
  return segment->seq + packet->flow.payload + (segment->flags & SYN ? 1 : 0) + (segment->flags & FIN ? 1 : 0);
}

static __always_inline bool is_first_segment(const struct segment *segment) {
  return (segment->flags & (SYN | ACK)) == SYN;
}

static __always_inline bool is_before(__u32 a, __u32 b) {
  return (__s32)(a - b) < 0;
}
