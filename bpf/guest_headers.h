/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whether a frame's headers can be believed at all. */
#pragma once

#include "guest_segment.h"

enum { SHORTEST_FRAME = 60, HEADERS_LONGEST = 128 };
enum { ECHO_REPLY = 0, UNREACHABLE = 3, ECHO = 8, TIME_EXCEEDED = 11, ECHO_V6 = 128, ECHO_REPLY_V6 = 129 };

/* The packet ends where its IP header says: what an Ethernet frame was filled up with goes, more is refused. */
static __always_inline __u8 refuse_length(struct __sk_buff *skb) {
  __be16 said;
  __u32 length;

  if (skb->protocol == bpf_htons(ETH_P_IP)) {
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 2, &said, 2))
      return MALFORMED_PACKET;
    length = ETH_HLEN + bpf_ntohs(said);
  } else {
    if (bpf_skb_load_bytes(skb, ETH_HLEN + 4, &said, 2))
      return MALFORMED_PACKET;
    length = ETH_HLEN + 40 + bpf_ntohs(said);
  }
  if (length == skb->len)
    return 0;
  if (length > skb->len || skb->len > SHORTEST_FRAME)
    return MALFORMED_PACKET;
  return bpf_skb_change_tail(skb, length, 0) ? HELPER_FAILED : 0;
}

/* The header's checksum: who receives a wrong one reads nothing of it. */
static __always_inline __u8 refuse_header(struct __sk_buff *skb) {
  __be32 header[5];
  __u64 sum;

  if (skb->protocol != bpf_htons(ETH_P_IP))
    return 0;
  if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header)))
    return MALFORMED_PACKET;
  if ((bpf_ntohl(header[0]) >> 24 & 15) != 5)
    return 0; /* with options: it is refused for those */
  sum = (__u64)header[0] + header[1] + header[2] + header[3] + header[4];
  sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return sum == 0xffff ? 0 : BAD_CHECKSUM;
}

/* Of ICMP, what a rule can mean: ping, and the errors that make TCP and traceroute work. */
static __always_inline bool is_ordinary_icmp(struct __sk_buff *skb) {
  __u8 header[8], type;

  if (bpf_skb_load_bytes(skb, transport_at(skb), header, sizeof(header)))
    return 0;
  type = header[0];
  if (skb->protocol == bpf_htons(ETH_P_IPV6))
    return type == ECHO_V6 || type == ECHO_REPLY_V6 || (type >= 1 && type <= 4);
  return type == ECHO || type == ECHO_REPLY || type == UNREACHABLE || type == TIME_EXCEEDED;
}

/* What is read of headers is in the part of the packet that is the kernel's own: the rest may be memory to which the
 * guest still writes. 0: it is. */
static __always_inline __u8 refuse_headers_elsewhere(struct __sk_buff *skb) {
  __u32 own = (__u64)skb->data_end - (__u64)skb->data, at, size;
  __u8 byte;

  if (own >= HEADERS_LONGEST || own >= skb->len)
    return 0;
  if (own > ETH_HLEN + 40 + 13 || (own > ETH_HLEN + 20 + 13 && skb->protocol == bpf_htons(ETH_P_IP))) {
    bool is_ipv4 = skb->protocol == bpf_htons(ETH_P_IP);

    at = ETH_HLEN + (is_ipv4 ? 20 : 40);
    size = 8;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + (is_ipv4 ? 9 : 6), &byte, 1))
      return MALFORMED_PACKET;
    if (byte == IPPROTO_TCP) {
      if (bpf_skb_load_bytes(skb, at + 12, &byte, 1))
        return MALFORMED_PACKET;
      size = (byte >> 4) * 4;
    }
    if (own >= at + size)
      return 0;
  }
  return bpf_skb_pull_data(skb, skb->len < HEADERS_LONGEST ? skb->len : HEADERS_LONGEST) ? HELPER_FAILED : 0;
}
