/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every frame at an interface: those of packet sockets pass no hook of a cgroup. A socket keeps its own as far as the
 * other end of a veth, so that what a container sends is known there by its cgroup still. */
#pragma once

#include "hook_packet.h"

/* linux/socket.h, which is no UAPI header. */
enum { AF_UNSPEC = 0, AF_INET = 2, AF_INET6 = 10 };

/* From linux/bpf.h's enum tcx_action_base, which older headers lack. */
enum { FRAME_GOES_ON = -1, FRAME_ENDS = 2 };
enum { FRAME_SEEN = 0x65786561 /* in skb->cb, which no socket writes to */ };

/* Who sends, by the kernel's memory: programs at interfaces may not ask for it before Linux 6.10. */
static __always_inline void tell_sender(struct stamp *stamp) {
  void *task = (void *)bpf_get_current_task(), *cred = 0;

  if (read_kernel(&stamp->pid, sizeof(stamp->pid), task + TASK_STRUCT_TGID) ||
      read_kernel(stamp->comm, sizeof(stamp->comm), task + TASK_STRUCT_COMM) ||
      read_kernel(&cred, sizeof(cred), task + TASK_STRUCT_CRED) ||
      read_kernel(&stamp->uid, sizeof(stamp->uid), cred + CRED_UID))
    stamp->pid = 0;
}

/* Where it would have gone, for people: a packet socket says what kind of packet it is, and may lie. */
static __always_inline void read_frame(struct __sk_buff *skb, struct packet *ret, struct telling *telling) {
  __be16 type = 0;
  __u32 at = 0; /* an interface without addresses of its own: IP begins at once */

  bpf_skb_load_bytes(skb, ETH_HLEN - sizeof(type), &type, sizeof(type));
  telling->detail = bpf_ntohs(skb->protocol);
  if (type == skb->protocol)
    at = ETH_HLEN;
  read_packet(skb, at, ret);
}

/* Whether hooks of its cgroup have judged what the socket sends. Those of taps have no family: what leaves by another
 * interface than it came in by is a guest's, and judged there. */
static __always_inline bool is_judged_elsewhere(const struct __sk_buff *skb, const struct bpf_sock *sk,
                                                bool is_leaving) {
  return sk->family == AF_INET || sk->family == AF_INET6 ||
         (is_leaving && sk->family == AF_UNSPEC && skb->ingress_ifindex);
}

static __always_inline int judge_frame(struct __sk_buff *skb, bool is_leaving) {
  struct telling telling = {.started_ns = 0, .hook = HOOK_FRAME, .bytes = skb->len};
  struct judgement judgement = {.reason = PACKET_SOCKET};
  struct bpf_sock *sk = skb->sk;
  struct standing standing;
  struct packet packet = {};
  struct stamp *stamp;
  __u64 epoch;

  if (!sk || is_judged_elsewhere(skb, sk, is_leaving))
    return FRAME_GOES_ON;
  sk = bpf_sk_fullsock(sk);
  if (!sk)
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
    begin_stamp(stamp, workload, epoch); /* nothing is held back, as TCP would: who is let go may send */
  }
  if (stamp->workload == 0)
    return FRAME_GOES_ON;
  telling.started_ns = bpf_ktime_get_boot_ns();
  if (stamp->cookie == 0)
    stamp->cookie = bpf_get_socket_cookie(skb);
  if (is_leaving && stamp->pid == 0)
    tell_sender(stamp); /* who sends is still at it; at a veth's other end it may be anybody */
  read_frame(skb, &packet, &telling);
  find_standing(stamp->workload, telling.started_ns, &standing);
  return settle_denial(stamp, &standing, &judgement, &packet.flow, &telling) ? FRAME_GOES_ON : FRAME_ENDS;
}

/* A frame goes out by an interface. On loopback it comes in again: then it is known to have been here. */
int on_frame_out(struct __sk_buff *skb) {
  int verdict = judge_frame(skb, 1);

  if (skb->ifindex == LOOPBACK_INDEX && verdict == FRAME_GOES_ON)
    skb->cb[0] = FRAME_SEEN;
  return verdict;
}

/* It comes in: out of the other end of a veth, or by a container's loopback. There, what the kernel itself has sent
 * brings its route along. What has none, and was not seen by on_frame_out, a packet socket has put there past it: the
 * kernel would forward or answer that in nobody's name. */
int on_frame_in(struct __sk_buff *skb) {
  unsigned long route = 0;

  if (skb->ifindex != LOOPBACK_INDEX)
    return judge_frame(skb, 0);
  if (skb->cb[0] == FRAME_SEEN || (!read_kernel(&route, sizeof(route), (void *)skb + SK_BUFF__SKB_REFDST) && route))
    return FRAME_GOES_ON;
  count_verdict(0, DROPPED, PACKET_SOCKET);
  return FRAME_ENDS;
}
