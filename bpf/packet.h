/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads a packet's headers as they will be on the wire, and refuses what hides its payload's kind or its way. */
#pragma once

#include "address.h"

struct packet {
  struct flow flow;
  __u32 end_seq; /* of TCP: behind the payload's last byte */
  __u8 is_urgent;
  __u8 reason; /* why it is refused; 0: it is not */
};

static __always_inline void read_transport(struct __sk_buff *skb, __u32 at, struct packet *ret) {
  __u8 header[20];
  __u32 size;

  switch (ret->flow.protocol) {
  case IPPROTO_TCP:
    if (bpf_skb_load_bytes(skb, at, header, 20)) {
      ret->reason = MALFORMED_PACKET;
      return;
    }
    size = (header[12] >> 4) * 4;
    if (size < 20 || at + size > skb->len) {
      ret->reason = MALFORMED_PACKET;
      return;
    }
    ret->flow.payload = skb->len - at - size;
    __builtin_memcpy(&ret->end_seq, header + 4, 4);
    ret->end_seq = bpf_ntohl(ret->end_seq) + ret->flow.payload;
    ret->is_urgent = (header[13] & 0x20) != 0;
    break;
  case IPPROTO_UDP:
    if (bpf_skb_load_bytes(skb, at, header, 8)) {
      ret->reason = MALFORMED_PACKET;
      return;
    }
    ret->flow.payload = skb->len - at - 8;
    break;
  case IPPROTO_ICMP:
    return;
  default:
    ret->reason = PACKET_PROTOCOL;
    return;
  }
  __builtin_memcpy(&ret->flow.source_port, header, 2);
  __builtin_memcpy(&ret->flow.port, header + 2, 2);
}

static __always_inline void read_v4(struct __sk_buff *skb, __u32 at, struct packet *ret) {
  struct iphdr header;

  if (bpf_skb_load_bytes(skb, at, &header, sizeof(header))) {
    ret->reason = MALFORMED_PACKET;
    return;
  }
  set_v4(ret->flow.address, header.daddr);
  set_v4(ret->flow.source, header.saddr);
  ret->flow.protocol = header.protocol;
  if (header.version != 4 || header.ihl < 5)
    ret->reason = MALFORMED_PACKET;
  else if (header.ihl > 5)
    ret->reason = IP_OPTIONS_PRESENT; /* a source route sends it elsewhere than its address says */
  else if (header.frag_off & bpf_htons(0x3fff))
    ret->reason = FRAGMENT; /* the kernel cuts after this hook: only a raw socket sends these */
  else if (header.protocol == IPPROTO_ICMPV6)
    ret->reason = PACKET_PROTOCOL;
  else
    read_transport(skb, at + sizeof(header), ret);
}

static __always_inline void read_v6(struct __sk_buff *skb, __u32 at, struct packet *ret) {
  struct ipv6hdr header;

  if (bpf_skb_load_bytes(skb, at, &header, sizeof(header))) {
    ret->reason = MALFORMED_PACKET;
    return;
  }
  __builtin_memcpy(ret->flow.address, &header.daddr, 16);
  __builtin_memcpy(ret->flow.source, &header.saddr, 16);
  ret->flow.protocol = header.nexthdr;
  if (header.version != 6) {
    ret->reason = MALFORMED_PACKET;
    return;
  }
  switch (header.nexthdr) {
  case IPPROTO_ICMP:
    ret->reason = PACKET_PROTOCOL;
    return;
  case IPPROTO_FRAGMENT:
    ret->reason = FRAGMENT;
    return;
  case IPPROTO_HOPOPTS:
  case IPPROTO_ROUTING:
  case IPPROTO_DSTOPTS:
  case IPPROTO_AH:
    ret->reason = EXTENSION_HEADER;
    return;
  }
  ret->flow.protocol = canonical_protocol(header.nexthdr);
  read_transport(skb, at + sizeof(header), ret);
}

/* `at`: where the IP header begins. */
static __always_inline void read_packet(struct __sk_buff *skb, __u32 at, struct packet *ret) {
  if (skb->protocol == bpf_htons(ETH_P_IP))
    read_v4(skb, at, ret);
  else if (skb->protocol == bpf_htons(ETH_P_IPV6))
    read_v6(skb, at, ret);
  else
    ret->reason = PACKET_PROTOCOL;
}
