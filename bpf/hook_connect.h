/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* connect() and sendto(): judges the destination while the program can still be told EPERM. */
#pragma once

#include "gate.h"
#include "loopback.h"
#include "meter.h"

enum { ERRNO_CONNECTION_REFUSED = 111 };

/* Whether the task may use this socket at all, and whose policy counts (ret: 0, nobody's). */
static __always_inline bool may_use(struct bpf_sock_addr *ctx, struct stamp *stamp, __u64 *ret_workload) {
  __u64 epoch = epoch_now(), cgroup = bpf_get_current_cgroup_id(), of_task;

  *ret_workload = stamp ? stamp->workload : 0;
  if (stamp && stamp->epoch == epoch && stamp->user_cgroup == cgroup)
    return 1;
  of_task = workload_of_task();
  if (of_task != *ret_workload && of_task != 0) {
    *ret_workload = of_task;
    return 0; /* made by somebody else, or before the policy: no hook saw it being made for this workload */
  }
  if (stamp && stamp->workload == of_task) {
    stamp->epoch = epoch;
    stamp->user_cgroup = cgroup;
  }
  return 1;
}

/* connect() on a UDP socket sends nothing. getaddrinfo() calls it on each address of an answer to put them in order,
 * and a denial would be told for every name that is only meant for TCP. What is sent later is judged packet by packet.
 */
static __always_inline bool is_only_probing(__u8 hook, const struct flow *flow, const struct judgement *judgement) {
  return hook == HOOK_CONNECT && flow->protocol == IPPROTO_UDP && judgement->outcome == DENY &&
         judgement->reason == PORT_NOT_ALLOWED;
}

/* What is let pass here: each connect() of TCP, each new destination of a UDP socket, and nothing on own loopback. */
static __always_inline bool is_charged(const struct stamp *stamp, const struct standing *standing,
                                       const struct flow *flow, const struct judgement *judgement) {
  if (!standing->limited || (judgement->outcome == DENY && standing->mode != MODE_OPEN))
    return 0;
  if (is_loopback(flow->address) && judgement->rule_id == 0)
    return 0;
  return flow->protocol == IPPROTO_TCP || !is_destination(stamp, flow);
}

enum way { REFUSED = 0, PASSES = 1, TO_GATE = 2 };

static __always_inline enum way judge_destination(struct bpf_sock_addr *ctx, struct flow *flow, __u8 hook) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = hook};
  struct judgement judgement = {};
  struct standing standing;
  struct stamp nobody = {};
  struct workload *bound;
  struct stamp *stamp;
  __u64 workload;
  __u8 state;

  if (!ctx->sk)
    return PASSES;
  stamp = stamps.sk_storage_get(ctx->sk, 0, 0);
  if (!may_use(ctx, stamp, &workload)) {
    find_standing(workload, telling.started_ns, &standing);
    nobody.cookie = bpf_get_socket_cookie(ctx);
    tell_process(&nobody);
    deny(&judgement, FOREIGN_SOCKET);
    return settle(&nobody, &standing, &judgement, flow, &telling) ? PASSES : REFUSED;
  }
  if (!stamp || workload == 0)
    return PASSES;
  bound = workloads.lookup(&workload);
  if (hook == HOOK_SEND && bound && is_settled(stamp, bound->generation, flow))
    return PASSES;
  flow->source_port = bpf_htons(ctx->sk->src_port);
  if (is_v4(flow->address))
    set_v4(flow->source, ctx->sk->src_ip4);
  find_standing(workload, telling.started_ns, &standing);
  tell_process(stamp);
  /* An IPv6 socket connected to an IPv4 address: the kernel asks about each send() as a sendto(), to the gate. */
  if (hook == HOOK_SEND && standing.reason == 0 && is_to_own_gate(ctx->sk, stamp, flow) &&
      loopback_owner(ctx, flow, workload) == OWNER_GATE)
    return PASSES; /* on_packet_out judges it */
  if (is_question(flow) && standing.reason == 0) {
    if (send_to_gate(ctx, stamp, &standing, flow))
      return TO_GATE;
    deny(&judgement, NO_GATE);
  } else {
    judge_standing(&standing, flow, telling.started_ns, 0, &judgement);
    if (judgement.outcome != ASK_NAME && standing.reason == 0 && is_loopback(flow->address))
      judge_loopback(ctx, flow, workload, &judgement);
  }

  if (is_only_probing(hook, flow, &judgement))
    return PASSES;
  judge_undeclared(stamp, &standing, &telling, &judgement);
  if (is_charged(stamp, &standing, flow, &judgement)) {
    struct charge charge = {.is_connection = 1, .is_contact = 1};

    judge_limits(stamp, &standing, flow, &charge, &telling, &judgement);
  }
  if (judgement.outcome == ASK_NAME) {
    forget_destination(stamp);
    stamp->is_lenient = standing.mode == MODE_MONITOR || standing.mode == MODE_OPEN;
    stamp->told |= TOLD_COUNTED;
    set_destination(stamp, &standing, &judgement, flow, STATE_HELLO);
    return PASSES; /* told once the name is known */
  }
  if (judgement.outcome == ALLOW && judgement.reason == OWN_LOOPBACK) {
    count_verdict(workload, FORWARDED, OWN_LOOPBACK);
    if (flow->protocol == IPPROTO_TCP) {
      forget_destination(stamp);
      set_destination(stamp, &standing, &judgement, flow, STATE_LOOP);
    }
    return PASSES;
  }
  if (judgement.outcome == DENY && standing.mode == MODE_OPEN && flow->protocol == IPPROTO_TCP) {
    settle(stamp, &standing, &judgement, flow, &telling); /* told again at the first bytes, with their name */
    forget_destination(stamp);
    stamp->is_lenient = 1;
    judgement.until_ns = NEVER;
    stamp->told |= TOLD_COUNTED;
    set_destination(stamp, &standing, &judgement, flow, STATE_HELLO);
    return PASSES;
  }
  if (!settle(stamp, &standing, &judgement, flow, &telling)) {
    if (flow->protocol == IPPROTO_TCP)
      forget_destination(stamp); /* UDP stays connected to where it was */
    if (judgement.reason == LOOPBACK_NOBODY)
      bpf_set_retval(-ERRNO_CONNECTION_REFUSED); /* what the program would see without us */
    return REFUSED;
  }
  if (flow->protocol == IPPROTO_UDP && is_loopback(flow->address))
    judgement.until_ns = 0; /* each datagram is judged: a gate may open at that port */
  else if (judgement.outcome == DENY)
    judgement.until_ns = NEVER; /* monitor, open: passes as long as this mode holds */
  if (flow->protocol == IPPROTO_TCP)
    forget_destination(stamp);
  stamp->told |= TOLD_COUNTED;
  set_destination(stamp, &standing, &judgement, flow, STATE_OPEN);
  return PASSES;
}

static __always_inline int on_way_out_v4(struct bpf_sock_addr *ctx, __u8 hook) {
  struct flow flow = {};
  enum way way;

  if (ctx->user_ip4 == 0)
    ctx->user_ip4 = LOOPBACK_V4; /* the kernel would take 0.0.0.0 for an address of its own choice */
  set_v4(flow.address, ctx->user_ip4);
  flow.port = ctx->user_port;
  flow.protocol = canonical_protocol(ctx->protocol);
  way = judge_destination(ctx, &flow, hook);
  if (way == TO_GATE) {
    ctx->user_ip4 = flow.address[3];
    ctx->user_port = flow.port;
  }
  return way != REFUSED;
}

static __always_inline int on_way_out_v6(struct bpf_sock_addr *ctx, __u8 hook) {
  struct flow flow = {};
  enum way way;

  read_user_ip6(ctx, flow.address);
  if (flow.address[0] == 0 && flow.address[1] == 0 && flow.address[3] == 0) {
    if (flow.address[2] == 0)
      flow.address[3] = bpf_htonl(1);
    else if (flow.address[2] == bpf_htonl(0xffff))
      flow.address[3] = LOOPBACK_V4;
    ctx->user_ip6[3] = flow.address[3];
  }
  flow.port = ctx->user_port;
  flow.protocol = canonical_protocol(ctx->protocol);
  way = judge_destination(ctx, &flow, hook);
  if (way == TO_GATE) {
    write_user_ip6(ctx, flow.address);
    ctx->user_port = flow.port;
  }
  return way != REFUSED;
}

int on_connect4(struct bpf_sock_addr *ctx) {
  return on_way_out_v4(ctx, HOOK_CONNECT);
}

int on_connect6(struct bpf_sock_addr *ctx) {
  return on_way_out_v6(ctx, HOOK_CONNECT);
}

int on_send4(struct bpf_sock_addr *ctx) {
  return on_way_out_v4(ctx, HOOK_SEND);
}

int on_send6(struct bpf_sock_addr *ctx) {
  return on_way_out_v6(ctx, HOOK_SEND);
}
