/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a guest may say on its link: who it is, whom it looks for, and that it wants an address. Everything else that is
 * not IP to a gateway ends here. */
#pragma once

#include "guest_owner.h"
#include "packet.h"

enum { ARP_LENGTH = 28, SHORTEST_FRAME = 60, DHCP_SERVER = 67, DHCP_CLIENT = 68, DHCPV6_SERVER = 547 };
enum { ROUTER_SOLICITATION = 133, NEIGHBOUR_SOLICITATION = 135, NEIGHBOUR_ADVERTISEMENT = 136 };
enum { OPTIONS_MAX = 24 }; /* behind a neighbour message: a link address and a nonce */
enum { NEXT_HEADER_AT = ETH_HLEN + 6, HOP_LIMIT_AT = ETH_HLEN + 7, ICMPV6_AT = ETH_HLEN + 40 };

struct arp {
  __be16 hardware;
  __be16 protocol;
  __u8 hardware_length;
  __u8 protocol_length;
  __be16 operation;
  __u8 sender_mac[6];
  __u8 sender[4];
  __u8 target_mac[6];
  __u8 target[4];
} __attribute__((packed));

static __always_inline void mapped(const __u8 *v4, __be32 *ret) {
  __be32 word;

  __builtin_memcpy(&word, v4, 4);
  set_v4(ret, word);
}

static __always_inline bool is_all(const __u8 *mac, __u8 value) {
  return mac[0] == value && mac[1] == value && mac[2] == value && mac[3] == value && mac[4] == value && mac[5] == value;
}

/* Why an ARP message does not pass; 0: it does. */
static __always_inline __u8 refuse_arp(struct __sk_buff *skb, const struct interface *interface, struct guest *guest,
                                       const __u8 *to) {
  __be32 sender[4], target[4];
  struct arp arp;

  if (skb->len > SHORTEST_FRAME || bpf_skb_load_bytes(skb, ETH_HLEN, &arp, sizeof(arp)))
    return MALFORMED_PACKET;
  if (arp.hardware != bpf_htons(1) || arp.protocol != bpf_htons(ETH_P_IP) || arp.hardware_length != ETH_ALEN ||
      arp.protocol_length != 4 || (arp.operation != bpf_htons(1) && arp.operation != bpf_htons(2)))
    return NEIGHBOUR;
  if (!is_guests_mac(interface, guest, arp.sender_mac))
    return SPOOFED;
  if (!is_all(to, 0xff) && !is_gateways_mac(interface, to))
    return NEIGHBOUR;
  if (!is_all(arp.target_mac, 0) && !is_all(arp.target_mac, 0xff) && !is_gateways_mac(interface, arp.target_mac) &&
      !is_guests_mac(interface, guest, arp.target_mac))
    return NEIGHBOUR;
  mapped(arp.sender, sender);
  mapped(arp.target, target);
  if (is_none(sender)) /* a probe: is the address that it is about to take free? */
    return is_guests(skb->ifindex, interface, guest, target) ? 0 : SPOOFED;
  if (!is_guests(skb->ifindex, interface, guest, sender))
    return SPOOFED;
  if (is_same_address(sender, target) || is_owned(skb->ifindex, target, OWNER_GATEWAY))
    return skb->len > ETH_HLEN + ARP_LENGTH && bpf_skb_change_tail(skb, ETH_HLEN + ARP_LENGTH, 0) ? HELPER_FAILED : 0;
  return NEIGHBOUR;
}

/* Messages of IPv6 among neighbours. */
static __always_inline bool is_among_neighbours(struct __sk_buff *skb, __u8 *ret_type) {
  __u8 next;

  if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, NEXT_HEADER_AT, &next, 1) ||
      next != IPPROTO_ICMPV6 || bpf_skb_load_bytes(skb, ICMPV6_AT, ret_type, 1))
    return 0;
  return *ret_type >= 130 && *ret_type <= 161;
}

static __always_inline __u8 refuse_neighbour(struct __sk_buff *skb, const struct interface *interface,
                                             struct guest *guest, const struct packet *packet, __u8 type) {
  __u32 index = skb->ifindex, fixed = type == ROUTER_SOLICITATION ? 8 : 24;
  bool is_unnamed = is_none(packet->flow.source);
  __be32 target[4];
  __u8 hops, code;

  if (bpf_skb_load_bytes(skb, HOP_LIMIT_AT, &hops, 1) || bpf_skb_load_bytes(skb, ICMPV6_AT + 1, &code, 1))
    return MALFORMED_PACKET;
  if (hops != 255 || code != 0 || skb->len < ICMPV6_AT + fixed || skb->len > ICMPV6_AT + fixed + OPTIONS_MAX)
    return NEIGHBOUR;
  if (!is_multicast(packet->flow.address) && !is_owned(index, packet->flow.address, OWNER_GATEWAY))
    return NEIGHBOUR;
  if (!is_unnamed && !is_guests(index, interface, guest, packet->flow.source))
    return SPOOFED;
  if (type == ROUTER_SOLICITATION)
    return 0;
  if ((type != NEIGHBOUR_SOLICITATION && type != NEIGHBOUR_ADVERTISEMENT) ||
      bpf_skb_load_bytes(skb, ICMPV6_AT + 8, target, sizeof(target)))
    return NEIGHBOUR;
  if (type == NEIGHBOUR_SOLICITATION && is_owned(index, target, OWNER_GATEWAY))
    return 0;
  if (is_unnamed && type == NEIGHBOUR_ADVERTISEMENT)
    return NEIGHBOUR;
  return is_guests(index, interface, guest, target) ? 0 : type == NEIGHBOUR_SOLICITATION ? NEIGHBOUR : SPOOFED;
}

/* A guest without an address, or with one that it holds, asks a DHCP server for one. */
static __always_inline bool is_dhcp_question(const struct flow *flow) {
  if (flow->protocol != IPPROTO_UDP)
    return 0;
  if (is_v4(flow->address))
    return flow->port == bpf_htons(DHCP_SERVER) && flow->source_port == bpf_htons(DHCP_CLIENT);
  return flow->port == bpf_htons(DHCPV6_SERVER) && is_link_local(flow->source);
}

static __always_inline __u8 refuse_dhcp(struct __sk_buff *skb, const struct interface *interface, struct guest *guest,
                                        const struct flow *flow) {
  bool is_to_all = is_multicast(flow->address) || (is_v4(flow->address) && flow->address[3] == 0xffffffff);
  __u8 hardware[6], kind;

  if (!interface->allows_dhcp || (!is_to_all && !is_owned(skb->ifindex, flow->address, OWNER_GATEWAY)))
    return NEIGHBOUR;
  if (!is_v4(flow->address))
    return is_guests(skb->ifindex, interface, guest, flow->source) ? 0 : SPOOFED;
  if (bpf_skb_load_bytes(skb, ETH_HLEN + 28, &kind, 1) || kind != 1 ||
      bpf_skb_load_bytes(skb, ETH_HLEN + 28 + 28, hardware, 6))
    return NEIGHBOUR;
  if (!is_guests_mac(interface, guest, hardware))
    return SPOOFED;
  return is_none(flow->source) || is_guests(skb->ifindex, interface, guest, flow->source) ? 0 : SPOOFED;
}

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
  __s64 sum;

  if (skb->protocol != bpf_htons(ETH_P_IP))
    return 0;
  if (bpf_skb_load_bytes(skb, ETH_HLEN, header, sizeof(header)))
    return MALFORMED_PACKET;
  sum = bpf_csum_diff(0, 0, header, sizeof(header), 0);
  sum = (sum & 0xffff) + (sum >> 16 & 0xffff);
  sum = (sum & 0xffff) + (sum >> 16);
  return sum == 0xffff ? 0 : BAD_CHECKSUM;
}
