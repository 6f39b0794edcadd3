/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a guest may say on its link: who it is, whom it looks for, and that it wants an address. Everything else that is
 * not IP to a gateway ends here. */
#pragma once

#include "guest_owner.h"
#include "guest_headers.h"

enum { ARP_LENGTH = 28, DHCP_SERVER = 67, DHCP_CLIENT = 68, DHCPV6_SERVER = 547 };
enum { DHCP_LONGEST = ETH_HLEN + 576 }; /* what every server must take: RFC 2131 2 */
enum { ROUTER_SOLICITATION = 133, NEIGHBOUR_SOLICITATION = 135, NEIGHBOUR_ADVERTISEMENT = 136 };
enum { OPTIONS_MAX = 24 }; /* behind a neighbour message: a link address and a nonce */
enum { SOURCE_LINK = 1, TARGET_LINK = 2, NONCE = 14 };
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
  if (skb->len > ETH_HLEN + ARP_LENGTH && bpf_skb_change_tail(skb, ETH_HLEN + ARP_LENGTH, 0))
    return HELPER_FAILED; /* what the frame was filled up with goes */
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
    return 0;
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

/* Options name the sender's link address, which must be the guest's own: else the host would send its packets to
 * another, or to all. */
static __always_inline __u8 refuse_options(struct __sk_buff *skb, const struct interface *interface,
                                           struct guest *guest, __u32 at) {
  __u32 i;

  for (i = 0; i < OPTIONS_MAX / 8; i++) {
    __u8 option[8];

    if (at == skb->len)
      return 0;
    if (bpf_skb_load_bytes(skb, at, option, sizeof(option)) || option[1] != 1)
      return NEIGHBOUR;
    if (option[0] == SOURCE_LINK || option[0] == TARGET_LINK) {
      if (!is_guests_mac(interface, guest, option + 2))
        return SPOOFED;
    } else if (option[0] != NONCE) {
      return NEIGHBOUR;
    }
    at += 8;
  }
  return at == skb->len ? 0 : NEIGHBOUR;
}

static __always_inline __u8 refuse_neighbour(struct __sk_buff *skb, const struct interface *interface,
                                             struct guest *guest, const struct packet *packet, __u8 type) {
  __u32 index = skb->ifindex, fixed = type == ROUTER_SOLICITATION ? 8 : 24;
  bool is_unnamed = is_none(packet->flow.source);
  __u8 hops, code, reason;
  __be32 target[4];

  if (bpf_skb_load_bytes(skb, HOP_LIMIT_AT, &hops, 1) || bpf_skb_load_bytes(skb, ICMPV6_AT + 1, &code, 1))
    return MALFORMED_PACKET;
  if (type != ROUTER_SOLICITATION && type != NEIGHBOUR_SOLICITATION && type != NEIGHBOUR_ADVERTISEMENT)
    return NEIGHBOUR;
  if (hops != 255 || code != 0 || skb->len < ICMPV6_AT + fixed)
    return NEIGHBOUR;
  if (!is_multicast(packet->flow.address) && !is_owned(index, packet->flow.address, OWNER_GATEWAY))
    return NEIGHBOUR;
  if (!is_unnamed && !is_guests(index, interface, guest, packet->flow.source))
    return SPOOFED;
  reason = refuse_options(skb, interface, guest, ICMPV6_AT + fixed);
  if (reason || type == ROUTER_SOLICITATION)
    return reason;
  if (bpf_skb_load_bytes(skb, ICMPV6_AT + 8, target, sizeof(target)))
    return NEIGHBOUR;
  if (type == NEIGHBOUR_ADVERTISEMENT)
    return is_unnamed ? NEIGHBOUR : is_owned(index, target, OWNER_GUEST) ? 0 : SPOOFED;
  if (is_owned(index, target, OWNER_GATEWAY) || is_owned(index, target, OWNER_GUEST))
    return 0;
  /* Without a name of its own it asks whether one is free that it is about to take. */
  return is_unnamed && is_guests(index, interface, guest, target) ? 0 : NEIGHBOUR;
}

/* A guest without an address, or with one that it holds, asks a DHCP server for one. */
static __always_inline bool is_dhcp_question(const struct flow *flow) {
  if (flow->protocol != IPPROTO_UDP)
    return 0;
  if (is_v4(flow->address))
    return flow->port == bpf_htons(DHCP_SERVER) && flow->source_port == bpf_htons(DHCP_CLIENT);
  return flow->port == bpf_htons(DHCPV6_SERVER) && is_link_local(flow->source);
}

/* ff02::1:2, "all DHCP relay agents and servers" */
static __always_inline bool is_all_dhcp(const __be32 *address) {
  return address[0] == bpf_htonl(0xff020000) && address[1] == 0 && address[2] == 0 && address[3] == bpf_htonl(0x10002);
}

static __always_inline __u8 refuse_dhcp(struct __sk_buff *skb, const struct interface *interface, struct guest *guest,
                                        const struct flow *flow) {
  bool is_to_all = is_v4(flow->address) ? flow->address[3] == 0xffffffff : is_all_dhcp(flow->address);
  __u8 hardware[6], kind;

  if (!interface->allows_dhcp || skb->len > DHCP_LONGEST ||
      (!is_to_all && !is_owned(skb->ifindex, flow->address, OWNER_GATEWAY)))
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
