/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Port 53, at whatever address: the guest's question goes to its gate on this host, and the answer comes back from whom
 * it asked. */
#pragma once

#include "guest_flow.h"
#include "guest_owner.h"

static __always_inline __u32 checksum_at(struct __sk_buff *skb, __u8 protocol) {
  return transport_at(skb) + (protocol == IPPROTO_TCP ? 16 : 6);
}

/* Writes another address and port into the packet, in place of those that it says. 0: it could not be done. */
static __always_inline bool rewrite_end(struct __sk_buff *skb, const struct flow *flow, const __be32 *old,
                                        const __be32 *new, __be16 old_port, __be16 new_port, bool is_source) {
  __u64 mangled = flow->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
  __u32 sum_at = checksum_at(skb, flow->protocol), port_at = transport_at(skb) + (is_source ? 0 : 2);
  __s64 change = bpf_csum_diff((__be32 *)old, 16, (__be32 *)new, 16, 0);

  if (is_v4(old)) {
    __be32 to = new[3];

    if (bpf_l3_csum_replace(skb, ETH_HLEN + 10, old[3], to, 4) ||
        bpf_skb_store_bytes(skb, ETH_HLEN + (is_source ? 12 : 16), &to, 4, 0))
      return 0;
  } else if (bpf_skb_store_bytes(skb, ETH_HLEN + (is_source ? 8 : 24), (void *)new, 16, 0)) {
    return 0;
  }
  if (bpf_l4_csum_replace(skb, sum_at, 0, change, BPF_F_PSEUDO_HDR | mangled) ||
      bpf_l4_csum_replace(skb, sum_at, old_port, new_port, 2 | mangled))
    return 0;
  return bpf_skb_store_bytes(skb, port_at, &new_port, 2, 0) == 0;
}

/* Whether the gate itself has that port: after an agent's death it may be anybody's. */
static __always_inline bool is_gate_there(struct __sk_buff *skb, const struct flow *flow, const __be32 *gate,
                                          __be16 port) {
  struct bpf_sock_tuple tuple = {};
  __u32 size = sizeof(tuple.ipv4);
  struct bpf_sock *sk;
  bool is_gate;

  if (is_v4(gate)) {
    tuple.ipv4.saddr = flow->source[3];
    tuple.ipv4.daddr = gate[3];
    tuple.ipv4.sport = flow->source_port;
    tuple.ipv4.dport = port;
  } else {
    copy_address(tuple.ipv6.saddr, flow->source);
    copy_address(tuple.ipv6.daddr, gate);
    tuple.ipv6.sport = flow->source_port;
    tuple.ipv6.dport = port;
    size = sizeof(tuple.ipv6);
  }
  if (flow->protocol == IPPROTO_TCP)
    sk = bpf_sk_lookup_tcp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
  else
    sk = bpf_sk_lookup_udp(skb, &tuple, size, BPF_F_CURRENT_NETNS, 0);
  if (!sk)
    return 0;
  is_gate = sk->priority == GATE_PRIORITY;
  bpf_sk_release(sk);
  return is_gate;
}

static __always_inline void asked_key_of(__u64 workload, const __be32 *guest, __be16 port, __u8 protocol,
                                         struct asked_key *ret) {
  ret->workload = workload;
  copy_address(ret->guest, guest);
  ret->port = port;
  ret->protocol = protocol;
}

/* Notes whom the guest asks from this port, so that the answer comes from there. Under the guest's lock. */
static __always_inline bool is_noted(struct guest *guest, struct asked_key *key, const __be32 *server) {
  struct place_key at = {.workload = key->workload, .place = guest->asked & (GUEST_ASKED - 1)};
  struct asked to, *known = asked.lookup(key);
  struct asked_key *before;

  copy_address(to.address, server);
  if (known) {
    copy_address(known->address, server);
    return 1;
  }
  guest->asked++;
  before = asked_places.lookup(&at);
  if (before)
    asked.delete(before);
  return asked_places.update(&at, key) == 0 && asked.update(key, &to) == 0;
}

/* 0, or why there is no room. */
static __always_inline __u8 note_asked(struct guest *guest, struct asked_key *key, const __be32 *server) {
  bool is_done;

  if (!lock_guest(key->workload))
    return BUSY;
  is_done = is_noted(guest, key, server);
  unlock_guest(key->workload);
  return is_done ? 0 : TABLE_FULL;
}

/* Leads a question to the gate. Why not, if not; 0: it is on its way. */
static __always_inline __u8 refuse_question(struct __sk_buff *skb, struct guest *guest,
                                            const struct interface *interface, const struct flow *flow, bool is_first) {
  struct gate_key gate_key = {.workload = INTERFACE_BIT | skb->ifindex, .network = interface->network};
  struct gate *gate = gates.lookup(&gate_key);
  struct asked_key key = {};
  __be32 to[4];
  __u8 reason;

  if (!gate || gate->port == 0)
    return NO_GATE;
  copy_address(to, is_v4(flow->address) ? interface->gate_v4 : interface->gate_v6);
  if (is_none(to))
    return NO_GATE;
  asked_key_of(gate_key.workload, flow->source, flow->source_port, flow->protocol, &key);
  if (is_first) {
    if (!is_gate_there(skb, flow, to, gate->port))
      return NO_GATE;
    reason = note_asked(guest, &key, flow->address);
    if (reason)
      return reason;
  } else if (!asked.lookup(&key)) {
    return NO_FLOW;
  }
  if (!rewrite_end(skb, flow, flow->address, to, flow->port, gate->port, 0) ||
      bpf_skb_store_bytes(skb, 0, (void *)interface->gateway_mac, ETH_ALEN, 0))
    return HELPER_FAILED;
  bpf_skb_change_type(skb, 0 /* PACKET_HOST: the frame may have been for a router beyond the bridge */);
  return 0;
}

static __always_inline bool was_asked(__u64 workload, const struct flow *flow) {
  struct asked_key key = {};

  asked_key_of(workload, flow->source, flow->source_port, flow->protocol, &key);
  return asked.lookup(&key) != 0;
}

/* An answer of the gate: it comes from whom the guest asked. `flow` runs to the gate, as the guest sees it. Returns
 * whether it could be made so. */
static __always_inline bool restore_asked(struct __sk_buff *skb, __u64 workload, const struct flow *flow) {
  struct asked_key key = {};
  struct asked *found;
  __be32 to[4];

  asked_key_of(workload, flow->source, flow->source_port, flow->protocol, &key);
  found = asked.lookup(&key);
  if (!found)
    return 0;
  copy_address(to, found->address);
  return rewrite_end(skb, flow, flow->address, to, flow->port, bpf_htons(53), 1);
}

static __always_inline bool is_gates_address(const struct interface *interface, const __be32 *address) {
  return is_same_address(address, interface->gate_v4) || is_same_address(address, interface->gate_v6);
}

static __always_inline bool is_from_gate(__u64 workload, const struct interface *interface, const struct flow *flow) {
  struct gate_key key = {.workload = workload, .network = interface->network};
  struct gate *gate;

  if (!is_gates_address(interface, flow->address))
    return 0;
  gate = gates.lookup(&key);
  return gate && gate->port == flow->port;
}
