/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The one judge, asked for a name: listed beside the networks of its rule, or granted for this very address. */
#pragma once

#include "judge_grant.h"

/* The name's place in a set. `name` must hold a reversed name, padded with zeros; its key is completed here. */
static __always_inline struct host *find_host(__u32 names_id, struct verified_name *name) {
  name->key.names_id = names_id;
  name->key.prefixlen = 32 + 8 * ((__u32)name->length + 1);
  return hosts.lookup(&name->key);
}

static __always_inline struct host_slot *slot_of(struct host *host, const struct verified_name *name) {
  return host->is_exact || name->dots == host->dots ? &host->one : &host->many;
}

/* A rule allows the name until then, and a hello that hides another until `ech_until_ns`. */
static __always_inline void judge_end(__u64 until_ns, __u64 ech_until_ns, const struct verified_name *name,
                                      __u64 now_ns, struct judgement *ret) {
  if (now_ns >= until_ns)
    return deny(ret, RULE_EXPIRED);
  if (name->has_ech && now_ns >= ech_until_ns)
    return deny(ret, ECH);
  ret->outcome = ALLOW;
  ret->reason = NAME_ALLOWED;
  ret->until_ns = name->has_ech ? ech_until_ns : until_ns;
}

/* A name that a rule allows throughout its networks. */
static __always_inline void judge_listed(__u32 names_id, struct verified_name *name, __u64 now_ns,
                                         struct judgement *ret) {
  struct host *host = find_host(names_id, name);
  __u64 until_ns = ret->until_ns;
  struct host_slot *slot;

  ret->rule_id = 0;
  if (!host)
    return deny(ret, NAME_NOT_ALLOWED);
  slot = slot_of(host, name);
  if (slot->until_ns == 0)
    return deny(ret, host->is_doh ? DOH_HOST : NAME_NOT_ALLOWED);
  ret->rule_id = slot->rule;
  judge_end(slot->until_ns, slot->ech_until_ns, name, now_ns, ret);
  if (until_ns < ret->until_ns)
    ret->until_ns = until_ns;
}

/* Why a name has no grant at this address. */
static __always_inline __u8 refuse_ungranted(__u32 policy_id, struct verified_name *name) {
  struct host *host = find_host(policy_id, name);
  struct host_slot *slot;

  if (!host)
    return NAME_NOT_ALLOWED;
  if (host->is_doh)
    return DOH_HOST;
  slot = slot_of(host, name);
  if (slot->ports_id == 0)
    return NAME_NOT_ALLOWED;
  name->key.prefixlen = policy_id;
  name->key.names_id = 0;
  __builtin_memset(name->address, 0, sizeof(name->address));
  return grants.lookup((struct grant_key *)name) ? NAME_ELSEWHERE : NAME_NOT_RESOLVED;
}

/* A name that must have been resolved to this very address. */
static __always_inline void judge_grant(__u32 policy_id, const struct flow *flow, struct verified_name *name,
                                        __u64 now_ns, bool is_established, struct judgement *ret) {
  struct grant *grant;
  struct port *port;

  copy_address(name->address, flow->address);
  name->key.prefixlen = policy_id;
  name->key.names_id = 0;
  grant = grants.lookup((struct grant_key *)name);
  ret->rule_id = 0;
  if (!grant)
    return deny(ret, refuse_ungranted(policy_id, name));
  port = find_port(grant->ports_id, flow);
  if (!port || port->named_until_ns == 0)
    return deny(ret, NAME_NOT_ALLOWED);
  ret->rule_id = port->named_rule;
  if (now_ns >= grant->until_ns && !is_established)
    return deny(ret, GRANT_EXPIRED);
  judge_end(port->named_until_ns, port->named_ech_until_ns, name, now_ns, ret);
}

/* A hello's name, after judge_network or judge_flow has asked for one. */
static __always_inline void judge_name(const struct standing *standing, const struct flow *flow,
                                       struct verified_name *name, __u64 now_ns, bool is_established,
                                       struct judgement *ret) {
  __u32 listed_rule = 0;
  __u8 listed = 0;

  if (ret->names_id) {
    judge_listed(ret->names_id, name, now_ns, ret);
    if (ret->outcome == ALLOW || !standing->has_hosts)
      return;
    listed = ret->reason;
    listed_rule = ret->rule_id;
  }
  judge_grant(standing->policy_id, flow, name, now_ns, is_established, ret);
  if (listed && ret->outcome == DENY && ret->reason == NAME_NOT_ALLOWED) {
    ret->reason = listed;
    ret->rule_id = listed_rule;
  }
}
