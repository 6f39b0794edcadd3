/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The same for datagrams: an ICMP message, made of the denied packet itself. */
#pragma once

#include "guest_owner.h"
#include "guest_reply.h"

enum { ICMP_UNREACHABLE = 3, ICMP_PROHIBITED = 13, ICMPV6_UNREACHABLE = 1, ICMPV6_PROHIBITED = 1 };
enum { QUOTED = 8 }; /* bytes of the transport header that an ICMP message gives back */

/* Datagrams: "communication administratively prohibited", which connect() and send() report at once. */
static __always_inline int refuse_datagram(struct __sk_buff *skb, const struct packet *packet) {
  struct answer answer = {};
  __u32 word = 0;
  __s64 sum;

  read_ends(skb, &packet->flow, &answer);
  if (is_multicast(answer.to) || is_none(answer.from) || (is_v4(answer.to) && answer.to[3] == 0xffffffff))
    return TC_ACT_SHOT; /* RFC 1122 3.2.2: no errors about these */
  turn_around(&answer);
  if (is_v4(answer.from)) {
    struct {
      __u8 before[2];
      struct ethhdr link;
      struct iphdr ip;
      __be32 icmp[2];
      __u8 quoted[sizeof(struct iphdr) + QUOTED];
    } __attribute__((packed, aligned(8))) reply = {};

    if (bpf_skb_load_bytes(skb, ETH_HLEN, reply.quoted, sizeof(reply.quoted)) ||
        bpf_skb_change_tail(skb, LENGTH_OF(reply), 0))
      return TC_ACT_SHOT;
    fill_link(&reply.link, &answer, ETH_P_IP);
    fill_v4(&reply.ip, &answer, LENGTH_OF(reply) - ETH_HLEN, IPPROTO_ICMP);
    word = bpf_htonl(ICMP_UNREACHABLE << 24 | ICMP_PROHIBITED << 16);
    reply.icmp[0] = word;
    word |= (__u32)(__u16)~folded(bpf_csum_diff(0, 0, reply.icmp, sizeof(reply.icmp) + sizeof(reply.quoted), 0)) << 16;
    reply.icmp[0] = word;
    if (bpf_skb_store_bytes(skb, 0, FRAME_OF(reply), LENGTH_OF(reply), BPF_F_INVALIDATE_HASH))
      return TC_ACT_SHOT;
  } else {
    struct {
      __u8 before[2];
      struct ethhdr link;
      struct ipv6hdr ip;
      __be32 icmp[2];
      __u8 quoted[sizeof(struct ipv6hdr) + QUOTED];
    } __attribute__((packed, aligned(8))) reply = {};
    __u32 length = sizeof(reply.icmp) + sizeof(reply.quoted);

    if (bpf_skb_load_bytes(skb, ETH_HLEN, reply.quoted, sizeof(reply.quoted)) ||
        bpf_skb_change_tail(skb, LENGTH_OF(reply), 0))
      return TC_ACT_SHOT;
    fill_link(&reply.link, &answer, ETH_P_IPV6);
    fill_v6(&reply.ip, &answer, length, IPPROTO_ICMPV6);
    word = bpf_htonl(ICMPV6_UNREACHABLE << 24 | ICMPV6_PROHIBITED << 16);
    reply.icmp[0] = word;
    sum = sum_of_ends(answer.from, answer.to, length, IPPROTO_ICMPV6);
    if (is_summed_later(
            skb)) /* the device will write a sum there, as if it were UDP: this one makes all come out right */
      reply.icmp[1] = (__u32)folded(sum) << 16;
    word |= (__u32)(__u16)~folded(bpf_csum_diff(0, 0, reply.icmp, length, sum)) << 16;
    reply.icmp[0] = word;
    if (bpf_skb_store_bytes(skb, 0, FRAME_OF(reply), LENGTH_OF(reply), BPF_F_INVALIDATE_HASH))
      return TC_ACT_SHOT;
  }
  return bpf_redirect(skb->ifindex, REPLY_TO_INTERFACE);
}
