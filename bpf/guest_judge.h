/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one judge, asked for a guest's packet in the light of what is known of its flow. */
#pragma once

#include "guest_bench.h"
#include "guest_flow.h"
#include "guest_headers.h"

/* How a packet is to be judged. */
struct asking {
  bool is_tcp;
  bool is_first; /* a connection's first segment, */
  bool is_later; /* and not one that stands within the connection before */
  bool is_open;  /* it belongs to a flow that was allowed */
  bool is_odd;   /* its options are */
};

/* What the policy says of it, in the light of what is known of its flow. Returns the state that its flow comes to. */
static __always_inline __u8 judge_guest(struct __sk_buff *skb, struct guest_flow *flow, const struct standing *standing,
                                        const struct packet *packet, const struct asking *asking, __u64 now_ns,
                                        struct judgement *ret) {
  __u8 state = asking->is_open ? flow->stamp.state : STATE_NEW;

  judge_standing(standing, &packet->flow, now_ns, asking->is_open, ret);
  if (!asking->is_tcp) {
    if (ret->outcome == ASK_NAME)
      deny(ret, ADDRESS_NOT_ALLOWED);
    if (ret->outcome == ALLOW && packet->flow.protocol == IPPROTO_ICMP && !is_ordinary_icmp(skb))
      deny(ret, PACKET_PROTOCOL);
    return STATE_OPEN;
  }
  if (asking->is_first && flow && ret->outcome != DENY && !asking->is_later)
    deny(ret, NO_FLOW);
  else if (asking->is_open && ret->outcome == ASK_NAME && is_verified(&flow->stamp))
    judge_name(standing, &packet->flow, &flow->name, now_ns, 1, ret);
  else if (ret->outcome == ASK_NAME && asking->is_first && packet->flow.payload)
    deny(ret, UNVERIFIED_DATA);
  else if (ret->outcome == ASK_NAME && asking->is_first && asking->is_odd)
    deny(ret, TCP_OPTION);
  else if (ret->outcome == ASK_NAME && !asking->is_first && state != STATE_HELLO)
    deny(ret, NO_FLOW);
  else if (ret->outcome == ASK_NAME)
    return STATE_HELLO;
  else
    state = STATE_OPEN;
  if (ret->outcome == DENY && asking->is_open && ret->reason != RULE_EXPIRED && ret->reason != URGENT_DATA)
    ret->reason = standing->reason ?: REVOKED;
  return state;
}
