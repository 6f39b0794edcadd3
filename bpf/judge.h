/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one judge: may this workload's policy talk to this address, port and protocol, and under which name? Every hook
 * asks here. Knows no hook, keeps no state. */
#pragma once

#include "address.h"
#include "maps.h"

enum outcome {
  DENY = 0,
  ALLOW = 1,
  ASK_NAME = 2, /* allowed to a name of names_id */
};

struct judgement {
  __u64 until_ns;
  __u32 rule_id;
  __u32 names_id;
  __u8 outcome;
  __u8 reason;
};

/* A workload's standing now: which policy, in which mode. */
struct standing {
  __u64 workload;
  __u64 generation;
  __u64 until_ns; /* when this standing must be looked at again: an override or the policy ends */
  __u32 policy_id;
  __u8 mode;
  __u8 reason; /* why all is denied; 0: it is not */
  __u8 allows_icmp;
};

static __always_inline void find_standing(__u64 workload, __u64 now_ns, struct standing *ret) {
  struct workload *bound = workloads.lookup(&workload);
  struct policy *policy;

  ret->workload = workload;
  ret->generation = 0;
  ret->until_ns = NEVER;
  ret->policy_id = 0;
  ret->mode = MODE_ENFORCE;
  ret->reason = NO_POLICY; /* a workload without an entry was managed once: deny */
  ret->allows_icmp = 0;
  if (!bound)
    return;
  ret->generation = bound->generation;
  ret->policy_id = bound->policy_id;
  policy = policies.lookup(&ret->policy_id);
  if (!policy)
    return;
  ret->reason = 0;
  ret->allows_icmp = policy->allows_icmp;
  ret->mode = policy->mode;
  if (bound->mode_override != MODE_DEFAULT && now_ns < bound->override_until_ns) {
    ret->mode = bound->mode_override;
    ret->until_ns = bound->override_until_ns;
  }
  if (now_ns >= policy->until_ns)
    ret->reason = POLICY_EXPIRED;
  else if (policy->until_ns < ret->until_ns)
    ret->until_ns = policy->until_ns;
  if (ret->mode == MODE_QUARANTINE)
    ret->reason = QUARANTINED;
}

static __always_inline void deny(struct judgement *ret, __u8 reason) {
  ret->outcome = DENY;
  ret->reason = reason;
}

static __always_inline void judge_flow(__u32 policy_id, const struct flow *flow, __u64 now_ns, struct judgement *ret) {
  struct network_key at = {.prefixlen = 32 + 128, .policy_id = policy_id};
  struct port_key on = {.prefixlen = 64};
  struct network *network;
  struct port *port;

  ret->rule_id = 0;
  ret->names_id = 0;
  ret->until_ns = 0;
  copy_address(at.address, flow->address);
  network = networks.lookup(&at);
  if (!network || network->ports_id == 0)
    return deny(ret, ADDRESS_NOT_ALLOWED);
  on.ports_id = network->ports_id;
  on.protocol = flow->protocol;
  on.port = flow->protocol == IPPROTO_ICMP ? 0 : flow->port;
  port = ports.lookup(&on);
  if (!port)
    return deny(ret, PORT_NOT_ALLOWED);
  if (now_ns < port->open_until_ns) {
    ret->outcome = ALLOW;
    ret->reason = NETWORK_ALLOWED;
    ret->rule_id = port->open_rule;
    ret->until_ns = port->open_until_ns;
    return;
  }
  ret->rule_id = port->named_rule ?: port->open_rule;
  if (now_ns >= port->named_until_ns)
    return deny(ret, RULE_EXPIRED);
  ret->outcome = ASK_NAME;
  ret->names_id = port->names_id;
  ret->until_ns = port->named_until_ns;
}

/* `name` must hold a reversed name with its end mark; its key is completed here. */
static __always_inline void judge_name(__u32 names_id, struct verified_name *name, __u64 now_ns,
                                       struct judgement *ret) {
  struct host_slot *slot;
  struct host *host;

  name->key.names_id = names_id;
  name->key.prefixlen = 32 + 8 * ((__u32)name->length + 1);
  host = hosts.lookup(&name->key);
  ret->rule_id = 0;
  if (!host)
    return deny(ret, NAME_NOT_ALLOWED);
  slot = &host->one;
  if (!host->is_exact && name->dots != host->dots)
    slot = &host->many;
  if (slot->until_ns == 0)
    return deny(ret, NAME_NOT_ALLOWED);
  ret->rule_id = slot->rule;
  if (now_ns >= slot->until_ns)
    return deny(ret, RULE_EXPIRED);
  if (name->has_ech && now_ns >= slot->ech_until_ns)
    return deny(ret, ECH);
  ret->outcome = ALLOW;
  ret->reason = NAME_ALLOWED;
  ret->until_ns = name->has_ech ? slot->ech_until_ns : slot->until_ns;
}
