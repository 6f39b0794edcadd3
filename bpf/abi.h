/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs and the agent tell each other. Twin: agent/exeat/kernel/abi.py; a test compares size and offset of
 * every field. Times end in _ns and are CLOCK_BOOTTIME; big-endian fields are typed so; every pad has a name. */
#pragma once

#include "entries.h"
#include "reasons.h"

/* Twin: model/policy.py Mode */
enum mode { MODE_DEFAULT = 0, MODE_ENFORCE = 1, MODE_MONITOR = 2, MODE_OPEN = 3, MODE_QUARANTINE = 4 };

/* Which program judged. Twin: kernel/abi.py Hook */
enum hook {
  HOOK_SOCKET = 1,
  HOOK_OPTION = 2,
  HOOK_CONNECT = 3,
  HOOK_SEND = 4,
  HOOK_HELLO = 5,
  HOOK_PACKET = 6,
  HOOK_QUERY = 7,  /* no program: the gate, which answers DNS questions */
  HOOK_AGENT = 8,  /* no program: the agent, about a policy and no packet */
  HOOK_GUEST = 9,  /* a packet of a guest, at its interface */
  HOOK_FRAME = 10, /* a frame of a packet socket, at an interface */
};

/* traffic, by workload, per CPU: what left and came, and how often each verdict fell. */
struct traffic {
  __u64 packets_out;
  __u64 bytes_out;
  __u64 packets_in;
  __u64 bytes_in;
  __u64 verdicts[VERDICTS];
};

/* usage, by workload: what was counted in the present window of each limit. Written under the lock, so that a window
 * begins once and no count goes beyond its limit, however many CPUs count. */
struct window {
  __u64 start_ns;
  __u64 count;
};

struct usage {
  struct bpf_spin_lock lock;
  __u32 reported; /* bit per limit: told in this window that it is reached */
  struct window windows[LIMITS];
};

/* destinations: in which window an address was counted last, and as which. */
struct destination_key {
  __u64 workload;
  __be32 address[4];
};

struct destination {
  __u64 start_ns;
  __u32 ordinal;
  __u32 pad;
};

/* ordinals: which address was counted as the n-th, so that the n-th of a later window takes its place, and a workload
 * never has more entries than its limit, with nobody to tidy up. */
struct ordinal_key {
  __u64 workload;
  __u32 ordinal;
  __u32 pad;
};

struct ordinal {
  __be32 address[4];
};

/* What a socket's stamp says of it. */
enum state {
  STATE_NEW = 0,      /* nothing was judged yet: every packet is judged by itself */
  STATE_OPEN = 1,     /* the destination may be talked to freely */
  STATE_HELLO = 2,    /* the destination wants a name first: no payload leaves */
  STATE_WATCHED = 3,  /* the name is allowed; a second hello may still come */
  STATE_VERIFIED = 4, /* the name is allowed and no further hello can come */
  STATE_DENIED = 5,   /* the hello was denied: no payload leaves, ever */
  STATE_LOOP = 6,     /* own loopback, to be confirmed at the first payload */
  STATE_SETTLING = 7, /* what passed shows that no further hello can come: VERIFIED as soon as it has left */
};

/* stamps: one per socket, inherited by accepted sockets. Written under the socket's lock; `destination` is written last
 * and carries a sequence number, because UDP sends read it without that lock. */
struct stamp {
  __u64 workload; /* 0: unmanaged as of `epoch` */
  __u64 epoch;
  __u64 user_cgroup; /* the cgroup of the task that last used it, already found to be of this workload */
  __u64 cookie;
  __u64 generation;
  __u64 until_ns;
  __be32 address[4];
  __u64 destination; /* sequence << 32 | protocol << 16 | port; 0: none */
  __u32 policy_id;
  __u32 rule_id;
  __u32 skip; /* bytes of the current TLS record still to pass by; settling: how much of `passed` has to leave first */
  __u32 pid;
  __u32 uid;
  __u32 told;      /* bit per hook: a denial of this destination was reported */
  __u32 first_seq; /* TCP sequence number of the first byte that on_message sees */
  __u32 passed;    /* bytes that on_message let pass since: nothing else may be in the send queue */
  __u8 state;
  __u8 is_lenient; /* monitor or open: the hello is read, and what it says is only reported */
  __u8 is_hashed;  /* in the sockhash */
  __u8 has_early_data;
  __u8 after_ccs;
  __u8 is_metered;  /* every packet's bytes are held against a limit */
  __be16 gate_port; /* it asked the gate there; 0: it never did */
  char comm[16];
};

/* names: the verified name of a socket, kept as the key under which a new policy is asked about it. */
struct verified_name {
  __be32 address[4];
  struct host_key key; /* padded with zeros */
  __u16 length;
  __u16 dots;
  __u8 has_ech;
  __u8 pad[3];
};

struct event {
  __u64 at_ns;
  __u64 workload;
  __u64 cookie;
  __u64 judged_ns; /* how long the judgement took */
  __be32 address[4];
  __be32 source[4];
  __u32 policy_id;
  __u32 rule_id;
  __u32 pid;
  __u32 uid;
  __u32 bytes;  /* of the hello, datagram or packet that was judged */
  __u32 detail; /* socket option, socket type or protocol, where the reason is about one */
  __be16 port;
  __be16 source_port;
  __u8 verdict;
  __u8 reason;
  __u8 hook;
  __u8 protocol;
  char comm[16];
  __u16 name_length;
  __u8 name_is_reversed;
  __u8 pad[5];
  __u8 name[NAME_MAX + 1];
  __u8 pad2[4];
};

/* Put to the programs `on_question` and `on_hello_question` by BPF_PROG_TEST_RUN: explain, the sweep after a change of
 * policy and the tests ask the judge itself. The answer is written over the question. */
struct question {
  __u32 policy_id;
  __u8 protocol;
  __u8 is_established; /* about an open connection: it may outlive its grant */
  __be16 port;
  __be32 address[4];
  struct verified_name name;
  __u32 ret_rule;
  __u8 ret_outcome;
  __u8 ret_reason;
  __u8 pad2[2];
};

struct hello_answer {
  __u8 ret_reason; /* 0: well-formed */
  __u8 ret_has_ech;
  __u8 ret_has_early_data;
  __u8 ret_is_incomplete;
  __u32 ret_need;
  __u32 ret_consumed;
  __u32 ret_name_length; /* the name itself: tests read it back through the hosts map */
};
