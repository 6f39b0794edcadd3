/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A fast no: the denied segment itself is made into a reset, and sent back. */
#pragma once

#include "guest_sum.h"

enum { HOPS = 64 };
enum { REPLY_TO_INTERFACE = 0, REPLY_TO_HOST = BPF_F_INGRESS };

/* A segment to be made up, from one end of a flow to the other. */
struct answer {
  __be32 from[4];
  __be32 to[4];
  __be16 from_port;
  __be16 to_port;
  __u32 seq;
  __u32 ack;
  __u8 mac_from[6];
  __u8 mac_to[6];
};

/* Two bytes before the frame, so that the headers behind it are aligned. */
struct segment_v4 {
  __u8 before[2];
  struct ethhdr link;
  struct iphdr ip;
  struct tcphdr tcp;
} __attribute__((packed, aligned(8)));

struct segment_v6 {
  __u8 before[2];
  struct ethhdr link;
  struct ipv6hdr ip;
  struct tcphdr tcp;
} __attribute__((packed, aligned(4)));

#define FRAME_OF(_reply) ((void *)&(_reply).link)
#define LENGTH_OF(_reply) (sizeof(_reply) - sizeof((_reply).before))

static __always_inline void fill_tcp(struct tcphdr *tcp, const struct answer *answer, bool is_later) {
  __s64 sum = sum_of_ends(answer->from, answer->to, sizeof(*tcp), IPPROTO_TCP);
  __be32 words[5];

  words[0] = (__u32)answer->from_port | (__u32)answer->to_port << 16; /* as they stand in memory */
  words[1] = bpf_htonl(answer->seq);
  words[2] = bpf_htonl(answer->ack);
  words[3] = bpf_htonl(5 << 28 | (RST | ACK) << 16);
  words[4] = 0;
  if (!is_later)
    sum = (__u16)~folded(bpf_csum_diff(0, 0, words, sizeof(words), sum));
  words[4] = is_later ? folded(sum) : (__u16)sum;
  __builtin_memcpy(tcp, words, sizeof(words));
}

static __always_inline void fill_link(struct ethhdr *link, const struct answer *answer, __u16 protocol) {
  __builtin_memcpy(link->h_dest, answer->mac_to, ETH_ALEN);
  __builtin_memcpy(link->h_source, answer->mac_from, ETH_ALEN);
  link->h_proto = bpf_htons(protocol);
}

static __always_inline void fill_v4(struct iphdr *ip, const struct answer *answer, __u32 length, __u8 protocol) {
  __be32 words[5];

  words[0] = bpf_htonl(0x45000000 | length);
  words[1] = bpf_htonl(0x4000); /* must not be cut */
  words[2] = bpf_htonl(HOPS << 24 | (__u32)protocol << 16);
  words[3] = answer->from[3];
  words[4] = answer->to[3];
  words[2] |= (__u32)(__u16)~folded(bpf_csum_diff(0, 0, words, sizeof(words), 0)) << 16; /* its last two bytes */
  __builtin_memcpy(ip, words, sizeof(words));
}

static __always_inline void fill_v6(struct ipv6hdr *ip, const struct answer *answer, __u32 length, __u8 next) {
  __be32 words[2];

  words[0] = bpf_htonl(6U << 28);
  words[1] = bpf_htonl(length << 16 | (__u32)next << 8 | HOPS);
  __builtin_memcpy(ip, words, sizeof(words));
  __builtin_memcpy(&ip->saddr, answer->from, 16);
  __builtin_memcpy(&ip->daddr, answer->to, 16);
}

/* Turns the packet into a reset. 0: it could not be done. */
static __always_inline bool make_reset(struct __sk_buff *skb, const struct answer *answer, bool is_later) {
  if (is_v4(answer->from)) {
    struct segment_v4 reset = {};

    if (bpf_skb_change_tail(skb, LENGTH_OF(reset), 0))
      return 0;
    fill_link(&reset.link, answer, ETH_P_IP);
    fill_v4(&reset.ip, answer, LENGTH_OF(reset) - ETH_HLEN, IPPROTO_TCP);
    fill_tcp(&reset.tcp, answer, is_later);
    return bpf_skb_store_bytes(skb, 0, FRAME_OF(reset), LENGTH_OF(reset), BPF_F_INVALIDATE_HASH) == 0;
  } else {
    struct segment_v6 reset = {};

    if (bpf_skb_change_tail(skb, LENGTH_OF(reset), 0))
      return 0;
    fill_link(&reset.link, answer, ETH_P_IPV6);
    fill_v6(&reset.ip, answer, sizeof(struct tcphdr), IPPROTO_TCP);
    fill_tcp(&reset.tcp, answer, is_later);
    return bpf_skb_store_bytes(skb, 0, FRAME_OF(reset), LENGTH_OF(reset), BPF_F_INVALIDATE_HASH) == 0;
  }
}

static __always_inline void turn_around(struct answer *answer) {
  __be32 word;
  __be16 port = answer->from_port;
  __u32 i;

  for (i = 0; i < 4; i++) {
    word = answer->from[i];
    answer->from[i] = answer->to[i];
    answer->to[i] = word;
  }
  answer->from_port = answer->to_port;
  answer->to_port = port;
  for (i = 0; i < ETH_ALEN; i++) {
    __u8 byte = answer->mac_from[i];

    answer->mac_from[i] = answer->mac_to[i];
    answer->mac_to[i] = byte;
  }
}

static __always_inline void read_ends(struct __sk_buff *skb, const struct flow *flow, struct answer *ret) {
  copy_address(ret->from, flow->source);
  copy_address(ret->to, flow->address);
  ret->from_port = flow->source_port;
  ret->to_port = flow->port;
  bpf_skb_load_bytes(skb, 0, ret->mac_to, ETH_ALEN);
  bpf_skb_load_bytes(skb, ETH_ALEN, ret->mac_from, ETH_ALEN);
}

/* The denied segment goes back to who sent it, as a reset from the other end. */
static __always_inline int refuse_segment_to_sender(struct __sk_buff *skb, const struct packet *packet,
                                                    const struct segment *segment, int sender) {
  struct answer answer = {};

  if (segment->flags & RST)
    return TC_ACT_SHOT; /* nobody answers a reset */
  read_ends(skb, &packet->flow, &answer);
  turn_around(&answer);
  answer.seq = segment->flags & ACK ? segment->ack : 0;
  answer.ack = end_of(segment, packet);
  if (!make_reset(skb, &answer, is_summed_later(skb)))
    return TC_ACT_SHOT;
  return bpf_redirect(skb->ifindex, sender);
}

/* Both ends learn that the connection is over. The packet goes on to whom it was for. `sender`: where who sent it is.
 */
static __always_inline int cut_both_ways(struct __sk_buff *skb, const struct packet *packet,
                                         const struct segment *segment, __u32 seq, __u32 ack, int sender) {
  bool is_later = is_summed_later(skb);
  struct answer answer = {};

  read_ends(skb, &packet->flow, &answer);
  turn_around(&answer);
  answer.seq = segment->ack;
  answer.ack = end_of(segment, packet);
  if (!make_reset(skb, &answer, is_later))
    return TC_ACT_SHOT;
  if (!(segment->flags & RST))
    bpf_clone_redirect(skb, skb->ifindex, sender);
  turn_around(&answer);
  answer.seq = seq;
  answer.ack = ack;
  return make_reset(skb, &answer, is_later) ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}
