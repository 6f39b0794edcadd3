/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where on_guest_out goes on with what is not settled: the judge is asked, and what it allows becomes a flow. */
#pragma once

#include "guest_judge.h"
#include "guest_told.h"

/* Reasons for which a sound packet is refused: who sent it is told. Nobody answers one that is not what it seems. */
static __always_inline bool is_answered_to(__u8 reason) {
  return reason == NO_GATE || reason == GATE_NOT_OWN || reason == NO_FLOW || reason == TABLE_FULL ||
         reason == URGENT_DATA;
}

/* The end of a denied packet: what is sent back is another program's work. */
static __always_inline enum next refuse_guest(struct guest_flow *flow, const struct packet *packet,
                                              const struct segment *segment) {
  if (packet->flow.protocol == IPPROTO_ICMP || (packet->reason && !is_answered_to(packet->reason)))
    return NEXT_DROP;
  if (flow && packet->flow.protocol == IPPROTO_TCP && !is_first_segment(segment)) {
    flow->stamp.state = STATE_DENIED;
    flow->next = segment->seq;
    flow->peer_next = tagged(flow->first, segment->ack);
  }
  return NEXT_REFUSE;
}

/* A packet of no flow, of one under another policy, or whose time has come. */
static __always_inline enum next judge_unknown(struct __sk_buff *skb, struct guest *guest, struct guest_flow *flow,
                                               struct bench *on) {
  struct asking asking = {.is_tcp = on->packet.flow.protocol == IPPROTO_TCP};
  struct judgement *judgement = &on->judgement;
  struct standing *standing = &on->standing;
  struct telling *telling = &on->telling;
  const struct flow *out = &on->packet.flow;
  __u8 state = STATE_OPEN;
  bool is_short = 0;

  telling->started_ns = bpf_ktime_get_boot_ns();
  find_standing(on->key.workload, telling->started_ns, standing);
  if (on->packet.reason) {
    deny(judgement, on->packet.reason);
  } else {
    asking.is_first = asking.is_tcp && is_first_segment(&on->segment);
    asking.is_open = flow && !asking.is_first && flow->stamp.generation;
    asking.is_later = !flow || may_begin_anew(flow, &on->segment, coarse_now());
    asking.is_odd = on->segment.is_odd;
    state = judge_guest(skb, flow, standing, &on->packet, &asking, telling->started_ns, judgement);
    if (!asking.is_tcp || asking.is_first)
      judge_undeclared(&guest->stamp, standing, telling, judgement);
    if (judgement->outcome != DENY && standing->limited) {
      struct charge charge = {.bytes = telling->bytes, .is_connection = !asking.is_open, .is_contact = !asking.is_open};

      judge_limits(&guest->stamp, standing, out, &charge, telling, judgement);
    }
  }
  if (judgement->outcome != DENY && !asking.is_open) {
    flow = begin_flow(guest, &on->key, telling->started_ns, &is_short);
    if (!flow && is_short) {
      hold_back(BUSY); /* the kernel hands out memory in portions: the guest sends it again */
      return NEXT_DROP;
    }
    if (!flow)
      deny(judgement, TABLE_FULL);
  }
  if (judgement->outcome == DENY || (judgement->outcome == ALLOW && !asking.is_open)) {
    if (!settle_frame(guest, standing, judgement, out, telling))
      return refuse_guest(flow, &on->packet, &on->segment);
    if (judgement->outcome == DENY) {
      judgement->until_ns = NEVER;
      state = STATE_OPEN;
      if (!flow && !on->packet.reason)
        flow = begin_flow(guest, &on->key, telling->started_ns, &is_short);
    }
  }
  count_packet_out(on->key.workload, telling->bytes);
  if (!flow)
    return NEXT_PASS;
  if (asking.is_first)
    begin_following(flow, &on->segment);
  if (!asking.is_open)
    flow->stamp.is_lenient = is_lenient(standing->mode);
  if (state == STATE_OPEN && flow->flags & FLOW_HELD)
    drop_hold(&on->key, flow);
  set_destination(&flow->stamp, standing, judgement, out, state);
  return asking.is_open && is_followed(flow) ? NEXT_HELLO : NEXT_PASS;
}

/* A connection's first segment once more: it passes where it can begin nothing else. */
static __always_inline enum next judge_again_first(struct guest_flow *flow, struct bench *on) {
  if (on->packet.flow.payload || !may_be_again(flow) || (on->segment.is_odd && flow->stamp.state != STATE_OPEN)) {
    hold_back(OUT_OF_ORDER);
    return NEXT_DROP;
  }
  count_packet_out(on->key.workload, on->telling.bytes);
  return NEXT_PASS;
}

/* The flow, if its ends are known. It is nobody else's business until it is unlocked. 0: it is now. */
static __always_inline bool find_flow(struct __sk_buff *skb, struct bench *on, struct guest_flow **ret) {
  if (on->packet.reason)
    return 1;
  if (on->packet.flow.protocol == IPPROTO_TCP) {
    read_segment(skb, &on->segment);
    if (is_first_segment(&on->segment))
      read_options(skb, &on->segment);
    on->is_locked = lock_flow(&on->key);
    if (!on->is_locked)
      return 0;
  }
  *ret = flows.lookup(&on->key);
  return 1;
}

static __always_inline bool is_first_again(const struct guest_flow *flow, const struct bench *on) {
  __u64 workload = on->key.workload;
  struct workload *bound = workloads.lookup(&workload);

  return bound && on->packet.flow.protocol == IPPROTO_TCP && is_first_segment(&on->segment) &&
         is_again(flow, &on->segment) && is_settled(&flow->stamp, bound->generation, &on->packet.flow);
}

int on_guest_unknown(struct __sk_buff *skb) {
  __u64 workload = INTERFACE_BIT | skb->ifindex;
  struct guest *guest = guests.lookup(&workload);
  struct guest_flow *flow = 0;
  enum next next = NEXT_DROP;
  struct scratch *scratch;
  struct bench *on;
  __u32 slot = 0;
  bool is_awaited;

  scratch = claim_scratch(workload, &slot);
  if (!scratch)
    return hold_back(BUSY);
  on = clear_bench(skb, scratch);
  read_packet(skb, ETH_HLEN, &on->packet);
  if (skb->cb[REASON])
    on->packet.reason = skb->cb[REASON];
  key_of(workload, &on->packet.flow, &on->key);
  if (!guest || !find_flow(skb, on, &flow))
    hold_back(BUSY);
  else if (flow && is_first_again(flow, on))
    next = judge_again_first(flow, on);
  else
    next = judge_unknown(skb, guest, flow, on);
  is_awaited = on->judgement.outcome == ASK_NAME || (flow && flow->stamp.state == STATE_HELLO);
  if (on->is_locked)
    unlock_flow(&on->key);
  skb->cb[REASON] = on->judgement.reason;
  claims.delete(&slot);
  switch (next) {
  case NEXT_PASS:
    if (is_awaited)
      set_hops(skb);
    return TC_ACT_UNSPEC;
  case NEXT_REFUSE:
    guest_steps.call(skb, STEP_REFUSED);
    break;
  case NEXT_HELLO:
    guest_steps.call(skb, STEP_HELLO);
    break;
  default:
    return TC_ACT_SHOT;
  }
  return hold_back(HELPER_FAILED);
}
