/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every frame at an interface: those of packet sockets pass no hook of a cgroup. A socket keeps its own as far as the
 * other end of a veth, so that what a container sends is known there by its cgroup still. */
#pragma once

#include "hook_packet.h"

/* linux/socket.h, which is no UAPI header. */
enum { AF_UNSPEC = 0, AF_INET = 2, AF_INET6 = 10 };

/* From linux/bpf.h's enum tcx_action_base, which older headers lack. */
enum { FRAME_GOES_ON = -1, FRAME_ENDS = 2 };

/* Who sends, by the kernel's memory: programs at interfaces may not ask for it before Linux 6.10. */
static __always_inline void tell_sender(struct stamp *stamp) {
  void *task = (void *)bpf_get_current_task(), *cred = 0;

  if (read_kernel(&stamp->pid, sizeof(stamp->pid), task + TASK_STRUCT_TGID) ||
      read_kernel(stamp->comm, sizeof(stamp->comm), task + TASK_STRUCT_COMM) ||
      read_kernel(&cred, sizeof(cred), task + TASK_STRUCT_CRED) ||
      read_kernel(&stamp->uid, sizeof(stamp->uid), cred + CRED_UID))
    stamp->pid = 0;
}

/* What else is known of a frame that nobody wrote by the kernel's rules: where it would have gone, for people. */
static __always_inline void read_frame(struct __sk_buff *skb, struct packet *ret, struct telling *telling) {
  __be16 type;

  if (bpf_skb_load_bytes(skb, ETH_HLEN - sizeof(type), &type, sizeof(type)))
    return;
  telling->detail = bpf_ntohs(type);
  if (type == bpf_htons(ETH_P_IP))
    read_v4(skb, ETH_HLEN, ret);
  else if (type == bpf_htons(ETH_P_IPV6))
    read_v6(skb, ETH_HLEN, ret);
}

/* Whether hooks of its cgroup have judged what the socket sends. Those of taps have no family: what leaves by another
 * interface has come in by one, where a guest is judged. */
static __always_inline bool is_judged_elsewhere(const struct bpf_sock *sk, bool is_leaving) {
  return sk->family == AF_INET || sk->family == AF_INET6 || (is_leaving && sk->family == AF_UNSPEC);
}

static __always_inline int judge_frame(struct __sk_buff *skb, bool is_leaving) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = HOOK_FRAME, .bytes = skb->len};
  struct judgement judgement = {.reason = PACKET_SOCKET};
  struct bpf_sock *sk = skb->sk;
  struct standing standing;
  struct packet packet = {};
  struct stamp *stamp;
  __u64 epoch;

  if (!sk)
    return FRAME_GOES_ON;
  sk = bpf_sk_fullsock(sk);
  if (!sk || is_judged_elsewhere(sk, is_leaving))
    return FRAME_GOES_ON;
  epoch = epoch_now();
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp || stamp->epoch != epoch) {
    __u64 workload = nearest_workload(skb);

    stamp = stamps.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!stamp) {
      if (workload == 0)
        return FRAME_GOES_ON;
      count_verdict(workload, ERROR, STAMP_MISSING);
      return FRAME_ENDS;
    }
    if (stamp->cookie == 0)
      stamp->cookie = bpf_get_socket_cookie(skb);
    begin_stamp(stamp, workload, epoch); /* nothing is held back, as TCP would: who is let go may send */
  }
  if (stamp->workload == 0)
    return FRAME_GOES_ON;
  if (is_leaving && stamp->pid == 0)
    tell_sender(stamp); /* who sends is still at it; at a veth's other end it may be anybody */
  read_frame(skb, &packet, &telling);
  find_standing(stamp->workload, telling.started_ns, &standing);
  return settle_denial(stamp, &standing, &judgement, &packet.flow, &telling) ? FRAME_GOES_ON : FRAME_ENDS;
}

/* A frame goes out by an interface. */
int on_frame_out(struct __sk_buff *skb) {
  return judge_frame(skb, 1);
}

/* It comes in, out of the other end of a veth. */
int on_frame_in(struct __sk_buff *skb) {
  return judge_frame(skb, 0);
}
