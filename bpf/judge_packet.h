/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet whose destination is not settled, and what becomes of a denied one. */
#pragma once

#include "gate.h"
#include "meter.h"
#include "segment.h"

enum { PACKET_DROP = 0, PACKET_PASS = 1, TCP_LISTEN = 10 };

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
  bool is_same = is_destination(stamp, flow);
  bool was_loop = is_same && stamp->state == STATE_LOOP;
  __u8 state = STATE_OPEN;

  judge_standing(standing, flow, now_ns, is_same && stamp->generation, ret);
  if ((ret->outcome == DENY || flow->protocol == IPPROTO_UDP) && is_loopback(flow->address) && standing->reason == 0) {
    enum owner owner = loopback_owner(skb, flow, stamp->workload);
    bool is_gate = (owner == OWNER_GATE || flow->protocol == IPPROTO_TCP) && is_to_own_gate(sk, stamp, flow);

    if (owner == OWNER_GATE && !is_gate) {
      deny(ret, GATE_NOT_OWN);
    } else if (ret->outcome == ALLOW) {
      /* by a rule */
    } else if (is_gate || owner == OWNER_SELF) {
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

/* Tells a denial once: TCP sends a dropped packet again and again. Returns whether it passes in this mode. */
static __always_inline bool settle_denial(struct stamp *stamp, const struct standing *standing,
                                          const struct judgement *judgement, const struct flow *flow,
                                          const struct telling *telling) {
  bool is_passed = standing->mode == MODE_MONITOR || standing->mode == MODE_OPEN;

  if (stamp->told & TOLD_DENIED) {
    count_verdict(stamp->workload, is_passed ? (standing->mode == MODE_OPEN ? FORWARDED : AUDIT) : DROPPED,
                  judgement->reason);
    return is_passed;
  }
  stamp->told |= TOLD_DENIED;
  return settle(stamp, standing, judgement, flow, telling);
}

/* Why a packet passes, but for the limits. */
struct passing {
  __u32 rule_id;
  bool is_contact; /* allowed by this judgement, and not by an earlier one */
  bool is_told;    /* no connect hook has told of it */
  bool is_limited;
};

/* What counts as a connection and as an address reached where no connect hook has counted: accepted connections, pings,
 * and sockets that are older than the policy. */
static __always_inline void charge_contact(struct bpf_sock *sk, const struct stamp *stamp, const struct flow *flow,
                                           struct charge *ret) {
  bool is_counted = stamp->told & TOLD_COUNTED;

  if (flow->protocol != IPPROTO_TCP) {
    ret->is_contact = 1;
    ret->is_connection = flow->protocol == IPPROTO_UDP && !is_counted && (__u32)stamp->destination == 0;
  } else if (!is_counted && sk->state != TCP_LISTEN) { /* there, the connection is counted if it comes to be */
    ret->is_contact = 1;
    ret->is_connection = 1;
  }
}

/* The end of a packet that may pass: holds it against the limits, and tells of it what is to be told. Finds the
 * standing anew: the verifier would else follow it once for each way in which a packet can be judged. Returns whether
 * it does pass. */
static __always_inline bool pass(struct bpf_sock *sk, struct stamp *stamp, const struct flow *flow,
                                 const struct passing *passing, const struct telling *telling) {
  __u64 now_ns = bpf_ktime_get_boot_ns();
  struct charge charge = {.bytes = telling->bytes};
  struct excess excess = {};
  struct standing standing;

  find_standing(stamp->workload, now_ns, &standing);
  if (standing.limited && !(is_loopback(flow->address) && passing->rule_id == 0)) {
    if (passing->is_contact)
      charge_contact(sk, stamp, flow, &charge);
    meter(&standing, flow, &charge, now_ns, &excess);
  }
  if (excess.is_denied && charge.is_contact && flow->protocol == IPPROTO_TCP)
    stamp->generation = 0; /* judge_packet has settled it: what is still to be counted must come here again */
  if (excess.is_quarantined) {
    quarantine(stamp->workload, now_ns);
  } else if (excess.is_denied && (stamp->told & TOLD_DENIED)) {
    count_verdict(stamp->workload, DROPPED, excess.reason);
    return 0;
  }
  if (excess.reason)
    emit(stamp, &standing, flow, telling, excess.is_denied ? DROPPED : AUDIT, excess.reason, passing->rule_id);
  else if (passing->is_told)
    emit(stamp, &standing, flow, telling, FORWARDED, NETWORK_ALLOWED, passing->rule_id);
  if (excess.is_denied)
    stamp->told |= TOLD_DENIED;
  else
    stamp->told |= (charge.is_connection ? TOLD_COUNTED : 0) | (passing->is_told && !excess.reason ? TOLD_ALLOWED : 0);
  return !excess.is_denied;
}

/* A socket that is tied to a device, or a datagram that names one: the kernel routes 127.0.0.1 out of it. What is the
 * workload's own on loopback, a question to the gate too, would be read by whoever is next on that wire. */
static __always_inline int refuse_device(struct stamp *stamp, const struct flow *flow, struct telling *telling) {
  struct judgement judgement = {};
  struct standing standing;

  telling->started_ns = bpf_ktime_get_boot_ns();
  find_standing(stamp->workload, telling->started_ns, &standing);
  deny(&judgement, LOOPBACK_DEVICE);
  return settle_denial(stamp, &standing, &judgement, flow, telling) ? PACKET_PASS : PACKET_DROP;
}
