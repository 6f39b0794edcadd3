/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* recvfrom() and getpeername(): what comes from the gate seems to come from whom the program asked. Resolvers drop
 * answers from anybody else. */
#pragma once

#include "gate.h"

static __always_inline struct server *server_behind(struct bpf_sock_addr *ctx) {
  struct stamp *stamp;

  if (!ctx->sk)
    return 0;
  stamp = stamps.sk_storage_get(ctx->sk, 0, 0);
  if (!stamp || stamp->gate_port == 0 || ctx->user_port != stamp->gate_port)
    return 0;
  return servers.sk_storage_get(ctx->sk, 0, 0);
}

static __always_inline int put_back_v4(struct bpf_sock_addr *ctx) {
  struct server *server;

  if (ctx->user_ip4 != LOOPBACK_V4)
    return 1;
  server = server_behind(ctx);
  if (!server)
    return 1;
  ctx->user_ip4 = server->address[3];
  ctx->user_port = bpf_htons(53);
  return 1;
}

static __always_inline int put_back_v6(struct bpf_sock_addr *ctx) {
  struct server *server;
  __be32 address[4];

  read_user_ip6(ctx, address);
  if (!is_loopback(address))
    return 1;
  server = server_behind(ctx);
  if (!server)
    return 1;
  write_user_ip6(ctx, server->address);
  ctx->user_port = bpf_htons(53);
  return 1;
}

int on_receive4(struct bpf_sock_addr *ctx) {
  return put_back_v4(ctx);
}

int on_receive6(struct bpf_sock_addr *ctx) {
  return put_back_v6(ctx);
}

int on_peer4(struct bpf_sock_addr *ctx) {
  return put_back_v4(ctx);
}

int on_peer6(struct bpf_sock_addr *ctx) {
  return put_back_v6(ctx);
}
