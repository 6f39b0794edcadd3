/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every packet that leaves: the backstop, and the one program that must be right. Nothing leaves a managed workload
 * unless its socket's stamp says so under the present generation, or the judge does for this very packet. */
#pragma once

#include "gate.h"
#include "loopback.h"
#include "segment.h"

enum { PACKET_DROP = 0, PACKET_PASS = 1, TCP_LISTEN = 10, HEADERS_MAX = 100 /* of IPv6 and TCP, with all options */ };
enum { TOLD_DENIED = 1, TOLD_ALLOWED = 2 }; /* bits of stamp->told */

static __always_inline __u64 workload_of_socket(struct __sk_buff *skb) {
  __u64 found = 0;
  int level;

  for (level = 1; level <= ANCESTORS_MAX; level++) {
    __u64 cgroup = bpf_skb_ancestor_cgroup_id(skb, level);

    if (cgroup == 0)
      break;
    if (workloads.lookup(&cgroup))
      found = cgroup;
  }
  return found;
}

/* A verified connection under a new policy: its name is asked again. */
static __always_inline void judge_again(struct bpf_sock *sk, const struct standing *standing, const struct flow *flow,
                                        __u64 now_ns, struct judgement *ret) {
  struct verified_name *name;

  if (ret->outcome != ASK_NAME)
    return;
  name = names.sk_storage_get(sk, 0, 0);
  if (!name)
    return deny(ret, STAMP_MISSING);
  judge_name(standing, flow, name, now_ns, 1, ret);
}

/* The destination is not settled: it is new, the policy is, or a time has come. Updates the stamp where it can. */
static __always_inline void judge_packet(struct __sk_buff *skb, struct bpf_sock *sk, struct stamp *stamp,
                                         const struct standing *standing, const struct packet *packet, __u64 now_ns,
                                         struct judgement *ret) {
  const struct flow *flow = &packet->flow;
  bool is_same = (__u32)stamp->destination == destination_of(flow) && is_same_address(stamp->address, flow->address);
  bool was_loop = is_same && stamp->state == STATE_LOOP;
  __u8 state = STATE_OPEN;

  judge_standing(standing, flow, now_ns, is_same && stamp->generation, ret);
  if (ret->outcome == DENY && is_loopback(flow->address) && standing->reason == 0) {
    if (is_to_own_gate(sk, stamp, flow) || loopback_owner(skb, flow, stamp->workload) == OWNER_SELF) {
      ret->outcome = ALLOW;
      ret->reason = OWN_LOOPBACK;
      ret->until_ns = NEVER;
    } else {
      deny(ret, LOOPBACK_NOT_OWN);
    }
  }
  if (flow->protocol != IPPROTO_TCP) {
    if (ret->outcome == ASK_NAME)
      deny(ret, ADDRESS_NOT_ALLOWED);
    return; /* no lock is held here: a datagram is judged by itself */
  }
  if (was_loop && flow->payload == 0 && ret->outcome == DENY) {
    ret->outcome = ALLOW; /* still on its way to being accepted */
    return;
  }
  if (is_same && is_verified(stamp)) {
    judge_again(sk, standing, flow, now_ns, ret);
    if (ret->outcome == ALLOW && refuse_segment(stamp, packet))
      deny(ret, refuse_segment(stamp, packet));
    state = stamp->state;
  } else if (ret->outcome == ASK_NAME) {
    state = STATE_HELLO;
    if (stamp->state == STATE_DENIED)
      state = STATE_DENIED;
    if (flow->payload)
      deny(ret, UNVERIFIED_DATA); /* its first bytes were not read: Fast Open, or a socket older than the policy */
    else if (!is_same || stamp->state != STATE_HELLO)
      state = STATE_NEW;
  }
  if (ret->outcome == DENY && is_same && stamp->generation && ret->reason != UNVERIFIED_DATA &&
      ret->reason != URGENT_DATA && ret->reason != RULE_EXPIRED)
    ret->reason = standing->reason ?: REVOKED;
  if (ret->outcome == DENY || state == STATE_NEW || sk->state == TCP_LISTEN)
    return;
  if (!is_same)
    forget_destination(stamp);
  set_destination(stamp, standing, ret, flow, state);
}

int on_packet_out(struct __sk_buff *skb) {
  struct telling telling = {.started_ns = 0, .hook = HOOK_PACKET, .bytes = skb->len};
  struct judgement judgement = {};
  struct bpf_sock *sk = skb->sk;
  struct standing standing;
  struct packet packet = {};
  struct workload *bound;
  struct stamp *stamp;
  __u64 epoch, workload;
  bool is_passed;

  if (!sk)
    return PACKET_PASS;
  sk = bpf_sk_fullsock(sk);
  if (!sk)
    return PACKET_PASS; /* a request or time-wait socket: the kernel's own answer, without data */
  epoch = epoch_now();
  stamp = stamps.sk_storage_get(sk, 0, 0);
  if (!stamp || stamp->epoch != epoch) {
    workload = workload_of_socket(skb);
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

  read_packet(skb, &packet);
  if (is_to_gate(stamp, &packet.flow))
    note_asker(sk, stamp, &packet.flow);
  bound = workloads.lookup(&workload);
  if (bound && !packet.reason && is_settled(stamp, bound->generation, &packet.flow) &&
      !refuse_segment(stamp, &packet)) {
    settle_flight(stamp, &packet);
    count_packet_out(workload, skb->len);
    return PACKET_PASS;
  }

  telling.started_ns = bpf_ktime_get_boot_ns();
  find_standing(workload, telling.started_ns, &standing);
  if (packet.reason)
    deny(&judgement, packet.reason);
  else
    judge_packet(skb, sk, stamp, &standing, &packet, telling.started_ns, &judgement);
  if (!packet.reason && judgement.outcome != DENY && packet.flow.protocol == IPPROTO_TCP && packet.flow.payload &&
      stamp->state == STATE_DENIED)
    deny(&judgement, UNVERIFIED_DATA);

  if (judgement.outcome == ALLOW && judgement.reason == NETWORK_ALLOWED && packet.flow.protocol != IPPROTO_UDP &&
      !(stamp->told & TOLD_ALLOWED)) {
    stamp->told |= TOLD_ALLOWED; /* a ping, or an accepted connection: no connect hook saw it */
    is_passed = settle(stamp, &standing, &judgement, &packet.flow, &telling);
  } else if (judgement.outcome != DENY) {
    is_passed = 1;
  } else if (stamp->told & TOLD_DENIED) { /* told before: TCP sends a dropped packet again and again */
    is_passed = standing.mode == MODE_MONITOR || standing.mode == MODE_OPEN;
    count_verdict(workload, is_passed ? (standing.mode == MODE_OPEN ? FORWARDED : AUDIT) : DROPPED, judgement.reason);
  } else {
    stamp->told |= TOLD_DENIED;
    is_passed = settle(stamp, &standing, &judgement, &packet.flow, &telling);
  }
  if (!is_passed) {
    /* What waits for its retransmission stands before a hello that on_message would allow later: a send() that slept
     * in SYN_SENT and Fast Open data pass it by. For good, or the server would read them once the name is allowed. */
    if (judgement.reason == UNVERIFIED_DATA && sk->state != TCP_LISTEN)
      stamp->state = STATE_DENIED;
    return PACKET_DROP;
  }
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
