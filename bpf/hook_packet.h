/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every packet that leaves: the backstop, and the one program that must be right. Nothing leaves a managed workload
 * unless its socket's stamp says so under the present generation, or the judge does for this very packet. */
#pragma once

#include "judge_packet.h"
#include "meter.h"

enum { HEADERS_MAX = 100 /* of IPv6 and TCP, with all options */ };

/* Not settled: it is judged by itself. Returns whether it passes, but for the limits. */
static __always_inline bool judge_unsettled(struct __sk_buff *skb, struct bpf_sock *sk, struct stamp *stamp,
                                            struct packet *packet, struct telling *telling, struct passing *ret) {
  struct judgement judgement = {};
  struct standing standing;

  find_standing(stamp->workload, telling->started_ns, &standing);
  if (packet->reason)
    deny(&judgement, packet->reason);
  else
    judge_packet(skb, sk, stamp, &standing, packet, telling->started_ns, &judgement);
  if (!packet->reason && judgement.outcome != DENY && packet->flow.protocol == IPPROTO_TCP && packet->flow.payload &&
      stamp->state == STATE_DENIED)
    deny(&judgement, UNVERIFIED_DATA);
  ret->rule_id = judgement.rule_id;
  ret->is_limited = standing.limited;
  if (judgement.outcome != DENY) {
    ret->is_contact = judgement.outcome == ALLOW;
    ret->is_told = ret->is_contact && judgement.reason == NETWORK_ALLOWED && packet->flow.protocol != IPPROTO_UDP &&
                   !(stamp->told & TOLD_ALLOWED); /* a ping, or an accepted connection */
    return 1;
  }
  if (packet->flow.protocol != IPPROTO_TCP) /* TCP is asked at connect(): a stranger who dials in is not its doing */
    judge_undeclared(stamp, &standing, telling, &judgement);
  if (settle_denial(stamp, &standing, &judgement, &packet->flow, telling))
    return 1;
  /* What waits for its retransmission stands before a hello that on_message would allow later: a send() that slept
   * in SYN_SENT and Fast Open data pass it by. For good, or the server would read them once the name is allowed. */
  if (judgement.reason == UNVERIFIED_DATA && sk->state != TCP_LISTEN)
    stamp->state = STATE_DENIED;
  return 0;
}

int on_packet_out(struct __sk_buff *skb) {
  struct telling telling = {.started_ns = 0, .hook = HOOK_PACKET, .bytes = skb->len};
  struct bpf_sock *sk = skb->sk;
  struct packet packet = {};
  struct workload *bound;
  struct stamp *stamp;
  __u64 epoch, workload;
  struct passing passing = {};
  bool is_fast;

  if (!sk)
    return PACKET_PASS;
  sk = bpf_sk_fullsock(sk);
  if (!sk)
    return PACKET_PASS; /* a request or time-wait socket: the kernel's own answer, without data */
  epoch = epoch_now();
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp || stamp->epoch != epoch) {
    workload = nearest_workload(skb);
    if (!stamp && workload == 0 && sk->protocol == IPPROTO_TCP && skb->len <= HEADERS_MAX)
      return PACKET_PASS; /* unmanaged, and may never send data: a stamp costs more than to ask again */
    stamp = stamps.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!stamp) {
      if (workload == 0)
        return PACKET_PASS;
      count_verdict(workload, ERROR, STAMP_MISSING);
      return PACKET_DROP;
    }
    if (stamp->cookie == 0)
      stamp->cookie = bpf_get_socket_cookie(skb);
    /* Unbound: without an entry all is denied. Else TCP would now send what was held back. */
    if (workload == 0)
      workload = stamp->workload;
    begin_stamp(stamp, workload, epoch);
  }
  workload = stamp->workload;
  if (workload == 0)
    return PACKET_PASS;

  read_packet(skb, 0, &packet);
  if (skb->ifindex != LOOPBACK_INDEX && is_loopback(packet.flow.address))
    return refuse_device(stamp, &packet.flow, &telling);
  if (is_to_gate(stamp, &packet.flow))
    note_asker(sk, stamp, &packet.flow);
  bound = workloads.lookup(&workload);
  is_fast =
      bound && !packet.reason && is_settled(stamp, bound->generation, &packet.flow) && !refuse_segment(stamp, &packet);
  if (is_fast && !stamp->is_metered) {
    settle_flight(stamp, &packet);
    count_packet_out(workload, skb->len);
    return PACKET_PASS;
  }

  telling.started_ns = bpf_ktime_get_boot_ns();
  passing.rule_id = stamp->rule_id;
  passing.is_limited = 1;
  if (!is_fast && !judge_unsettled(skb, sk, stamp, &packet, &telling, &passing))
    return PACKET_DROP;
  if ((passing.is_limited || passing.is_told) && !pass(sk, stamp, &packet.flow, &passing, &telling))
    return PACKET_DROP;
  if (is_fast)
    settle_flight(stamp, &packet);
  count_packet_out(workload, skb->len);
  return PACKET_PASS;
}

int on_packet_in(struct __sk_buff *skb) {
  struct bpf_sock *sk = skb->sk;
  struct stamp *stamp;

  if (!sk)
    return PACKET_PASS;
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (stamp && stamp->workload)
    count_packet_in(stamp->workload, skb->len);
  return PACKET_PASS;
}
