/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* socket(): stamps the socket with its workload, and refuses the kinds that no later hook can judge. */
#pragma once

#include "stamp.h"

/* From the kernel's linux/net.h, which is no UAPI header. */
enum { SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3 };
enum { PROTOCOL_MPTCP = 262 };

/* 0: this kind of socket is judged by the other hooks. */
static __always_inline __u8 refuse_socket(__u32 type, __u32 protocol, bool allows_icmp) {
  if (type == SOCK_STREAM && protocol == IPPROTO_TCP)
    return 0;
  if (type == SOCK_DGRAM && protocol == IPPROTO_UDP)
    return 0;
  if (type == SOCK_DGRAM && (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6))
    return allows_icmp ? 0 : ICMP_NOT_ALLOWED;
  if (type == SOCK_RAW)
    return RAW_SOCKET; /* would write its own addresses, past connect and sendto */
  if (protocol == PROTOCOL_MPTCP)
    return MPTCP_SOCKET;      /* its writes do not pass on_message, and a name can be striped over subflows */
  return PROTOCOL_NOT_JUDGED; /* SCTP, UDP-Lite, DCCP, SMC: no connect hook sees them */
}

int on_socket(struct bpf_sock *ctx) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = HOOK_SOCKET};
  struct judgement judgement = {};
  struct standing standing;
  struct flow flow = {};
  struct stamp *stamp;
  __u64 workload = workload_of_task();

  if (workload == 0)
    return 1; /* unmanaged: most never send much, and on_packet_out stamps those that do */
  stamp = stamps.sk_storage_get(ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!stamp) {
    count_verdict(workload, ERROR, STAMP_MISSING);
    return 0;
  }
  begin_stamp(stamp, workload, epoch_now());
  stamp->user_cgroup = bpf_get_current_cgroup_id();
  stamp->cookie = bpf_get_socket_cookie(ctx);
  tell_process(stamp);
  find_standing(workload, telling.started_ns, &standing);
  judgement.reason = refuse_socket(ctx->type, ctx->protocol, standing.allows_icmp);
  if (judgement.reason == 0)
    return 1;
  telling.detail = ctx->protocol;
  flow.protocol = ctx->protocol;
  return settle(stamp, &standing, &judgement, &flow, &telling);
}
