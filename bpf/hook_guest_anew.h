/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_in goes on with a connection under another policy, or whose time has come: one that is not allowed any
 * more is cut, although the guest says nothing. */
#pragma once

#include "hook_guest_in.h"
#include "hook_guest_unknown.h"

/* The policy is another one now: is this connection still allowed? */
static __always_inline bool is_revoked(struct guest_flow *flow, const struct flow *out, struct bench *on) {
  struct judgement *judgement = &on->judgement;
  struct standing *standing = &on->standing;
  struct telling *telling = &on->telling;
  __u8 state = flow->stamp.state;

  telling->started_ns = bpf_ktime_get_boot_ns();
  find_standing(flow->stamp.workload, telling->started_ns, standing);
  judge_standing(standing, out, telling->started_ns, 1, judgement);
  if (judgement->outcome == ASK_NAME && is_verified(&flow->stamp))
    judge_name(standing, out, &flow->name, telling->started_ns, 1, judgement);
  else if (judgement->outcome == ASK_NAME && state != STATE_HELLO)
    deny(judgement, REVOKED); /* it was open without a name */
  else if (judgement->outcome == ALLOW)
    return 0; /* and on_guest_out will note it */
  if (judgement->outcome != DENY)
    return 0;
  if (judgement->reason != RULE_EXPIRED)
    judgement->reason = standing->reason ?: REVOKED;
  return !settle(&flow->stamp, standing, judgement, out, telling);
}

int on_guest_anew(struct __sk_buff *skb) {
  __u64 workload = INTERFACE_BIT | skb->ifindex;
  struct guest_flow *flow = 0;
  struct segment segment = {};
  struct packet packet = {};
  struct scratch *scratch;
  bool is_cut = 0;
  __u32 slot = 0;

  scratch = claim_scratch(workload, &slot);
  if (!scratch)
    return hold_back(BUSY);
  {
    struct bench *on = clear_bench(skb, scratch);
    struct flow out = {};

    read_reversed(skb, &packet, &out);
    key_of(workload, &out, &on->key);
    flow = flows.lookup(&on->key);
    if (flow && !packet.reason && lock_flow(&on->key)) { /* else on_guest_out is about it now */
      is_cut = is_revoked(flow, &out, on);
      if (is_cut) {
        read_segment(skb, &segment);
        flow->stamp.state = STATE_DENIED;
        flow->stamp.told |= TOLD_CUT;
        flow->next = segment.ack; /* on_guest_out lets our own reset pass, and no other */
        flow->peer_next = tagged(flow->first, end_of(&segment, &packet));
        flow->flags |= FLOW_RESET | FLOW_OWN_RESET;
        drop_hold(&on->key, flow);
      }
      unlock_flow(&on->key);
    }
  }
  claims.delete(&slot);
  if (!is_cut)
    return TC_ACT_UNSPEC;
  return cut_both_ways(skb, &packet, &segment, segment.seq, segment.ack, REPLY_TO_HOST);
}
