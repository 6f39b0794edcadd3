/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose an address is, and which ones a guest may take for its own. */
#pragma once

#include "guest_locks.h"

static __always_inline bool is_link_local(const __be32 *address) {
  return (address[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool is_multicast(const __be32 *address) {
  if (is_v4(address))
    return (address[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
  return (address[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline bool is_none(const __be32 *address) {
  return address[0] == 0 && address[1] == 0 && (address[2] == 0 || is_v4(address)) && address[3] == 0;
}

static __always_inline bool is_owned(__u32 index, const __be32 *address, enum owner_kind kind) {
  struct address_key key = {.index = index};
  struct address_owner *owner;

  copy_address(key.address, address);
  owner = addresses.lookup(&key);
  return owner && owner->kind == kind;
}

static __always_inline __be32 mask_of(__u32 bits, __u32 before) {
  __u32 here = bits > before ? bits - before : 0;

  return here >= 32 ? ~0U : here ? bpf_htonl(~0U << (32 - here)) : 0;
}

/* Of the network, and neither its first address nor, of IPv4, its last one. */
static __always_inline bool is_within(const __be32 *network, __u32 bits, const __be32 *address) {
  __be32 host;

  if (bits == 0)
    return 0;
  if ((network[0] ^ address[0]) & mask_of(bits, 0) || (network[1] ^ address[1]) & mask_of(bits, 32) ||
      (network[2] ^ address[2]) & mask_of(bits, 64) || (network[3] ^ address[3]) & mask_of(bits, 96))
    return 0;
  if (!is_v4(address) || bits >= 127)
    return 1;
  host = ~mask_of(bits, 96);
  return (address[3] & host) != 0 && (address[3] & host) != host;
}

static __always_inline bool take(__u32 index, const __be32 *address, __u32 scope) {
  struct address_owner owner = {.index = index, .kind = OWNER_GUEST, .is_learnt = 1};
  struct address_key key = {.index = scope};

  copy_address(key.address, address);
  return addresses.insert(&key, &owner) == 0;
}

static __always_inline bool take_for_guest(__u32 index, const __be32 *address, __u32 *learnt, __u32 most) {
  if (*learnt >= most)
    return 0;
  if (!is_link_local(address) && !take(index, address, 0))
    return 0; /* another guest's */
  if (!take(index, address, index))
    return 0;
  *learnt += 1;
  return 1;
}

/* The guest's own, or one that it may take now because nobody has it: then it is fixed. */
static __always_inline bool is_guests(__u32 index, const struct interface *interface, struct guest *guest,
                                      const __be32 *address) {
  __u64 workload = INTERFACE_BIT | index;
  __u32 *learnt, most = 1;
  bool is_taken;

  if (is_owned(index, address, OWNER_GUEST))
    return 1;
  if (is_v4(address)) {
    learnt = &guest->learnt_v4;
    if (!is_within(interface->learn_v4, interface->learn_v4_bits, address))
      return 0;
  } else if (is_link_local(address)) {
    learnt = &guest->learnt_local;
  } else {
    learnt = &guest->learnt_v6;
    most = LEARNT_V6_MAX;
    if (!is_within(interface->learn_v6, interface->learn_v6_bits, address))
      return 0;
  }
  if (is_owned(index, address, OWNER_GATEWAY) || !lock_guest(workload))
    return 0;
  is_taken = take_for_guest(index, address, learnt, most);
  unlock_guest(workload);
  return is_taken;
}

static __always_inline bool is_same_mac(const __u8 *a, const __u8 *b) {
  __u32 i;

  for (i = 0; i < ETH_ALEN; i++)
    if (a[i] != b[i])
      return 0;
  return 1;
}

static __always_inline bool is_no_mac(const __u8 *mac) {
  return !(mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

static __always_inline bool is_guests_mac(const struct interface *interface, struct guest *guest, const __u8 *mac) {
  if (mac[0] & 1 || is_no_mac(mac))
    return 0;
  if (!interface->learns_mac)
    return is_same_mac(interface->guest_mac, mac);
  if (!guest->has_mac) {
    __builtin_memcpy(guest->mac, mac, ETH_ALEN);
    guest->has_mac = 1;
  }
  return is_same_mac(guest->mac, mac);
}

static __always_inline bool is_gateways_mac(const struct interface *interface, const __u8 *mac) {
  return is_same_mac(interface->gateway_mac, mac) ||
         (!is_no_mac(interface->gateway_mac2) && is_same_mac(interface->gateway_mac2, mac));
}
