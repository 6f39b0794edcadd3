/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one judge, asked for an address: what the names that the gate resolved to it may be used for. */
#pragma once

#include "judge.h"

/* Whether a grant may widen what the networks say. */
static __always_inline bool may_be_granted(const struct judgement *judgement) {
  return judgement->outcome == ASK_NAME ||
         (judgement->outcome == DENY && (judgement->reason == ADDRESS_NOT_ALLOWED ||
                                         judgement->reason == PORT_NOT_ALLOWED || judgement->reason == RULE_EXPIRED));
}

/* What the names say that were resolved to the address. An open connection may outlive its grant, not its rule. */
static __always_inline void judge_granted(__u32 policy_id, const struct flow *flow, __u64 now_ns, bool is_established,
                                          struct judgement *ret) {
  struct granted_key at = {.policy_id = policy_id};
  __u8 reason = PORT_NOT_ALLOWED;
  struct port *named = 0;
  struct granted *address;
  __u32 i;

  copy_address(at.address, flow->address);
  address = granted.lookup(&at);
  if (!address) {
    if (ret->outcome == DENY && ret->reason == ADDRESS_NOT_ALLOWED)
      ret->reason = NOT_RESOLVED;
    return;
  }
  address->used_ns = now_ns;
#pragma clang loop unroll(disable)
  for (i = 0; i < GRANT_SLOTS; i++) {
    const struct grant_slot *slot = &address->slots[i];
    struct port *port;

    if (slot->ports_id == 0)
      break;
    port = find_port(slot->ports_id, flow);
    if (!port)
      continue;
    if (now_ns >= slot->until_ns && !is_established) {
      reason = GRANT_EXPIRED;
      continue;
    }
    if (now_ns < port->open_until_ns) {
      ret->outcome = ALLOW;
      ret->reason = GRANTED;
      ret->rule_id = port->open_rule;
      ret->until_ns = port->open_until_ns;
      return;
    }
    if (now_ns < port->named_until_ns)
      named = port;
    else
      reason = RULE_EXPIRED;
  }
  if (named && ret->outcome == DENY) {
    ret->outcome = ASK_NAME;
    ret->rule_id = named->named_rule;
    ret->until_ns = named->named_until_ns;
  } else if (ret->outcome == DENY && ret->reason != RULE_EXPIRED) {
    ret->reason = reason;
  }
}

/* The whole of it. */
static __always_inline void judge_flow(const struct standing *standing, const struct flow *flow, __u64 now_ns,
                                       bool is_established, struct judgement *ret) {
  judge_network(standing->policy_id, flow, now_ns, ret);
  if (standing->has_hosts && may_be_granted(ret))
    judge_granted(standing->policy_id, flow, now_ns, is_established, ret);
}
