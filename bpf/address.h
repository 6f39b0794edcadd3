/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Destinations: one form for both families, IPv4 as ::ffff:a.b.c.d. */
#pragma once

#include "abi.h"

/* One way out, as a hook sees it. */
struct flow {
  __be32 address[4];
  __be32 source[4];
  __be16 port;
  __be16 source_port;
  __u8 protocol;
  __u32 payload; /* bytes behind the transport header */
};

#define LOOPBACK_V4 bpf_htonl(0x7f000001) /* 127.0.0.1 */

static __always_inline void set_v4(__be32 *ret_address, __be32 v4) {
  ret_address[0] = 0;
  ret_address[1] = 0;
  ret_address[2] = bpf_htonl(0xffff);
  ret_address[3] = v4;
}

static __always_inline bool is_v4(const __be32 *address) {
  return address[0] == 0 && address[1] == 0 && address[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_loopback(const __be32 *address) {
  if (is_v4(address))
    return (bpf_ntohl(address[3]) >> 24) == 127;
  return address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == bpf_htonl(1);
}

static __always_inline bool is_same_address(const __be32 *a, const __be32 *b) {
  return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

static __always_inline void copy_address(__be32 *ret, const __be32 *from) {
  ret[0] = from[0];
  ret[1] = from[1];
  ret[2] = from[2];
  ret[3] = from[3];
}

/* The address of the same family that every host's own services are at. */
static __always_inline void set_loopback(__be32 *ret_address) {
  if (is_v4(ret_address)) {
    ret_address[3] = LOOPBACK_V4;
    return;
  }
  ret_address[0] = 0;
  ret_address[1] = 0;
  ret_address[2] = 0;
  ret_address[3] = bpf_htonl(1);
}

static __always_inline void read_user_ip6(struct bpf_sock_addr *ctx, __be32 *ret_address) {
  ret_address[0] = ctx->user_ip6[0];
  ret_address[1] = ctx->user_ip6[1];
  ret_address[2] = ctx->user_ip6[2];
  ret_address[3] = ctx->user_ip6[3];
}

static __always_inline void write_user_ip6(struct bpf_sock_addr *ctx, const __be32 *address) {
  ctx->user_ip6[0] = address[0];
  ctx->user_ip6[1] = address[1];
  ctx->user_ip6[2] = address[2];
  ctx->user_ip6[3] = address[3];
}

/* ICMPv6 is asked for as ICMP: one word in a policy means both. */
static __always_inline __u8 canonical_protocol(__u32 protocol) {
  return protocol == IPPROTO_ICMPV6 ? IPPROTO_ICMP : protocol;
}

/* It is for the gate, whomever it is meant for. */
static __always_inline bool is_question(const struct flow *flow) {
  return flow->port == bpf_htons(53) && (flow->protocol == IPPROTO_TCP || flow->protocol == IPPROTO_UDP);
}

static __always_inline __u32 destination_of(const struct flow *flow) {
  return ((__u32)flow->protocol << 16) | flow->port;
}
