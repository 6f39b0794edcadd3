/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Port 53, at whatever address: the question goes to the gate's listener for this workload, inside the workload's own
 * network namespace, and the program believes that it talks to whom it asked. */
#pragma once

#include "loopback.h"

/* Turns the destination into the gate's. 0: it has no listener here. */
static __always_inline bool send_to_gate(struct bpf_sock_addr *ctx, struct stamp *stamp,
                                         const struct standing *standing, struct flow *flow) {
  struct gate_key key = {.workload = standing->workload, .network = bpf_get_netns_cookie(ctx)};
  struct judgement judgement = {}; /* never settled: whoever has the port later is not the gate */
  struct gate *gate = gates.lookup(&key);
  struct server *server;

  if (!gate || ctx->sk->bound_dev_if > LOOPBACK_INDEX) /* a device would put the question on its wire */
    return 0;
  server = servers.sk_storage_get(ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!server)
    return 0;
  server->network = key.network;
  copy_address(server->address, flow->address);
  set_loopback(flow->address);
  flow->port = gate->port;
  if (loopback_owner(ctx, flow, standing->workload) != OWNER_GATE) { /* it has gone, and its port may be anybody's */
    copy_address(flow->address, server->address);
    flow->port = bpf_htons(53);
    return 0;
  }
  stamp->gate_port = gate->port;
  if (flow->protocol == IPPROTO_TCP)
    forget_destination(stamp);
  set_destination(stamp, standing, &judgement, flow, STATE_OPEN);
  return 1;
}

static __always_inline bool is_to_gate(const struct stamp *stamp, const struct flow *flow) {
  return stamp->gate_port && flow->port == stamp->gate_port && is_loopback(flow->address);
}

/* Still: once the gate has moved, its old port may be anybody's. */
static __always_inline bool is_to_own_gate(struct bpf_sock *sk, const struct stamp *stamp, const struct flow *flow) {
  struct gate_key key = {.workload = stamp->workload};
  struct server *server;
  struct gate *gate;

  if (!is_to_gate(stamp, flow))
    return 0;
  server = servers.sk_storage_get(sk, 0, 0);
  if (!server)
    return 0;
  key.network = server->network;
  gate = gates.lookup(&key);
  return gate && gate->port == flow->port;
}

/* Only here is the source port known: connect and sendto are asked before the kernel has chosen it. */
static __always_inline void note_asker(struct bpf_sock *sk, const struct stamp *stamp, const struct flow *flow) {
  struct asker_key key = {.workload = stamp->workload, .port = flow->source_port, .protocol = flow->protocol};
  struct asker asker = {.pid = stamp->pid, .uid = stamp->uid};
  struct server *server = servers.sk_storage_get(sk, 0, 0);

  if (server)
    copy_address(asker.address, server->address);
  __builtin_memcpy(asker.comm, stamp->comm, sizeof(asker.comm));
  askers.update(&key, &asker);
}
