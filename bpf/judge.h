/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one judge: may this workload's policy talk to this address, port and protocol? Every hook asks here. What grants
 * add is judge_grant.h's matter, under which name judge_name.h's. Knows no hook, keeps no state. */
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
  __u32 names_id; /* 0: only a granted name passes */
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
  __u8 has_hosts;
  __u8 limited; /* bit per limit */
  __u8 quarantines_undeclared;
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
  ret->has_hosts = 0;
  ret->limited = 0;
  ret->quarantines_undeclared = 0;
  if (!bound)
    return;
  ret->generation = bound->generation;
  ret->policy_id = bound->policy_id;
  policy = policies.lookup(&ret->policy_id);
  if (!policy)
    return;
  ret->reason = 0;
  ret->allows_icmp = policy->allows_icmp;
  ret->has_hosts = policy->has_hosts;
  ret->limited = policy->limited;
  ret->quarantines_undeclared = policy->quarantines_undeclared;
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

/* Ports on which names are resolved, past the gate: no rule opens them. 0: another port. */
static __always_inline __u8 refuse_port(const struct flow *flow) {
  if (flow->protocol != IPPROTO_TCP && flow->protocol != IPPROTO_UDP)
    return 0;
  switch (bpf_ntohs(flow->port)) {
  case 53:
    return DNS_ELSEWHERE;
  case 137:
    return NETBIOS;
  case 853:
    return DNS_OVER_TLS;
  case 5353:
    return MULTICAST_DNS;
  case 5355:
    return LLMNR;
  }
  return 0;
}

static __always_inline struct port *find_port(__u32 ports_id, const struct flow *flow) {
  struct port_key on = {.prefixlen = 64, .ports_id = ports_id, .protocol = flow->protocol};

  on.port = flow->protocol == IPPROTO_ICMP ? 0 : flow->port;
  return ports.lookup(&on);
}

/* What the policy's networks say of a destination. */
static __always_inline void judge_network(__u32 policy_id, const struct flow *flow, __u64 now_ns,
                                          struct judgement *ret) {
  struct network_key at = {.prefixlen = 32 + 128, .policy_id = policy_id};
  struct network *network;
  struct port *port;

  ret->rule_id = 0;
  ret->names_id = 0;
  ret->until_ns = 0;
  ret->reason = refuse_port(flow);
  if (ret->reason)
    return deny(ret, ret->reason);
  copy_address(at.address, flow->address);
  network = networks.lookup(&at);
  if (!network || network->ports_id == 0)
    return deny(ret, ADDRESS_NOT_ALLOWED);
  port = find_port(network->ports_id, flow);
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
