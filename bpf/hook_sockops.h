/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP events: puts a socket whose name is awaited into the sockhash, and takes it out again when no hello can come. */
#pragma once

#include "stamp.h"

/* Still in the sockhash: it keeps its place over connect(AF_UNSPEC) (6.18), and its next connection is as much watched.
 */
enum { ERRNO_BUSY = 16 };

static __always_inline void watch_socket(struct bpf_sock_ops *ctx, struct stamp *stamp) {
  __u64 cookie = stamp->cookie;
  int failed = sockets.sock_hash_update(ctx, &cookie, BPF_ANY);

  if (failed && failed != -ERRNO_BUSY)
    return; /* full, or a kind that cannot be watched: on_egress lets no payload of it pass */
  stamp->is_hashed = 1;
  stamp->first_seq = ctx->snd_nxt;
  stamp->passed = 0;
  bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
}

static __always_inline void release_socket(struct bpf_sock_ops *ctx, struct stamp *stamp) {
  __u64 cookie = stamp->cookie;

  /* A socket in the sockhash sends at 0.8 of its speed. Here the socket is locked, in on_message it must not be done.
   */
  sockets.delete(&cookie);
  stamp->is_hashed = 0;
  bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
}

int on_tcp(struct bpf_sock_ops *ctx) {
  struct bpf_sock *sk = ctx->sk;
  struct stamp *stamp;

  if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && ctx->op != BPF_SOCK_OPS_RTT_CB)
    return 1;
  if (!sk)
    return 1;
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp || stamp->workload == 0)
    return 1;
  /* Denied already, by data that went ahead of any hello: watched, so that the next write is told so. */
  if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB && (stamp->state == STATE_HELLO || stamp->state == STATE_DENIED))
    watch_socket(ctx, stamp);
  else if (ctx->op == BPF_SOCK_OPS_RTT_CB && stamp->is_hashed &&
           (stamp->state == STATE_VERIFIED || stamp->state == STATE_OPEN))
    release_socket(ctx, stamp);
  return 1;
}
