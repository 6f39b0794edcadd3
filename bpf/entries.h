/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the agent writes for the programs to judge by: policies, grants and gates. Twin: agent/exeat/kernel/entries.py;
 * a test compares size and offset of every field. Times end in _ns and are CLOCK_BOOTTIME; every pad has a name. */
#pragma once

#include "limits.h"

/* settings[0]. `epoch` changes whenever a workload is bound or unbound: sockets then look for their workload again.
 * `next_policy_id` is the agent's own: ids are never used twice. */
struct settings {
  __u64 epoch;
  __u32 next_policy_id;
  __u32 pad;
};

/* In place of a policy's id: nobody judges this cgroup, whatever is above it. The agent's own. */
enum { SPARED = 0xffffffff };

/* workloads, by cgroup id. `generation` is new at every change, so that one write switches a workload: a stamp of an
 * older generation is judged again before its next packet leaves. */
struct workload {
  __u64 generation;
  __u64 override_until_ns; /* until when mode_override holds; NEVER: until changed */
  __u32 policy_id;
  __u8 mode_override; /* MODE_DEFAULT: the policy's own */
  __u8 pad[3];
};

/* What is limited. A limit's bit is 1 << its number, its reason LIMIT_BYTES + its number. Twin: kernel/abi.py Limited
 */
enum limited { LIMITED_BYTES = 0, LIMITED_CONNECTIONS = 1, LIMITED_DESTINATIONS = 2 };
enum { LIMITS = 3 };

/* So much in a window, which begins with what is counted first after the last one has ended. */
struct limit {
  __u64 max;
  __u64 per_ns;
};

/* policies, by policy id, which is also the first of the `ids` ids that its sets of ports and names use. */
struct policy {
  __u64 until_ns;
  __u32 ids;
  __u8 mode;
  __u8 allows_icmp;
  __u8 has_hosts; /* addresses may be granted to names */
  __u8 limited;   /* bit per limit: there is one */
  struct limit limits[LIMITS];
  __u8 denies;      /* bit per limit: what is beyond does not pass; else it is reported */
  __u8 quarantines; /* bit per limit: what is beyond puts the workload into quarantine; `denies` has it too */
  __u8 quarantines_undeclared; /* so does a destination that no rule names */
  __u8 pad[5];
};

/* networks: longest prefix of the address, IPv4 as ::ffff:a.b.c.d. A ports_id of 0 closes what a wider one opens. */
struct network_key {
  __u32 prefixlen;
  __u32 policy_id;
  __be32 address[4];
};

struct network {
  __u32 ports_id;
};

/* ports: longest prefix of the port within a set and a protocol; ICMP and ICMPv6 are asked for as port 0 of 1. */
struct port_key {
  __u32 prefixlen;
  __u32 ports_id;
  __u8 protocol;
  __u8 pad;
  __be16 port;
};

struct port {
  __u64 open_until_ns; /* 0: no rule lets anything pass here without a name */
  __u64 named_until_ns;
  __u64 named_ech_until_ns; /* of a granted name; the others have it in their host_slot */
  __u32 open_rule;
  __u32 named_rule;
  __u32 names_id; /* 0: only a granted name passes */
  __u32 pad;
};

/* hosts: longest prefix of the reversed name, "moc.elpmaxe.ipa\0", so that wildcards cost one look-up as well and a
 * name is compared byte by byte: no hash stands between a name and its allowance. The set under the policy's own id
 * holds what the gate may resolve. */
struct host_key {
  __u32 prefixlen;
  __u32 names_id;
  __u8 reversed[NAME_MAX + 1];
};

struct host_slot {
  __u64 until_ns;
  __u64 ech_until_ns;
  __u32 rule;
  __u32 ports_id; /* in the policy's own set: what a granted address may be used for; 0: no rule wants a grant */
};

struct host {
  struct host_slot one;  /* the exact name, or one label below the suffix */
  struct host_slot many; /* two labels or more below the suffix */
  __u16 dots;            /* in the suffix with its trailing dot */
  __u8 is_exact;
  __u8 is_doh; /* a resolver over HTTPS that a wildcard covers: denied */
  __u8 pad[4];
};

/* granted: by address, what the names that the gate resolved to it may be used for, one slot for each set of ports. */
enum { GRANT_SLOTS = 16 };

struct granted_key {
  __u32 policy_id;
  __be32 address[4];
};

struct grant_slot {
  __u64 until_ns;
  __u32 ports_id; /* 0: no more slots */
  __u32 pad;
};

struct granted {
  __u64 used_ns; /* when a connection last asked: what is unused longest goes first */
  struct grant_slot slots[GRANT_SLOTS];
};

/* grants: "this name is at this address". Under the address 0: it was resolved at all. Laid out so that a
 * verified_name serves as this key and as a host_key, without a copy. */
struct grant_key {
  __be32 address[4];
  __u32 policy_id;
  __u32 zero;
  __u8 reversed[NAME_MAX + 1];
};

struct grant {
  __u64 until_ns;
  __u32 ports_id;
  __u32 pad;
};

/* gates: the gate's listeners for a workload in a network namespace, on one port of 127.0.0.1 and ::1. */
struct gate_key {
  __u64 workload;
  __u64 network; /* the namespace's cookie */
};

struct gate {
  __be16 port;
  __u8 pad[6];
};

/* The gate's own sockets, told from others by a priority that nobody else has; it changes nothing on loopback. */
enum { GATE_PRIORITY = 0x65786561 };

/* askers: who asks the gate from which port, for the verdict on the question. */
struct asker_key {
  __u64 workload;
  __be16 port;
  __u8 protocol;
  __u8 pad[5];
};

struct asker {
  __be32 address[4]; /* whom it meant to ask */
  __u32 pid;
  __u32 uid;
  char comm[16];
};

/* servers: whom a socket meant to ask when it was sent to the gate. */
struct server {
  __u64 network; /* the namespace's cookie, by which the gate was found */
  __be32 address[4];
};
