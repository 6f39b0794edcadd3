/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What agent and programs tell each other about interfaces: a microVM's tap, a pod's veth. The guest behind one is a
 * workload, known by INTERFACE_BIT and the interface's index where others have their cgroup's id. Twin:
 * agent/exeat/kernel/guest_abi.py; a test compares size and offset of every field. */
#pragma once

#include "abi.h"

#define INTERFACE_BIT (1ULL << 62) /* no cgroup's id is so high */

#define INTERFACES_MAX 16384
#define ADDRESSES_MAX 262144
#define GUEST_FLOWS 8192  /* of one guest: beyond, closed ones and those unused longest make room */
#define FLOWS_MAX 2097152 /* of all: 256 guests that use all of theirs */
#define GUEST_ASKED 4096  /* questions of one guest whose answers are awaited: beyond, the oldest get none */
#define ASKED_MAX 1048576 /* of all */
#define GUEST_HOLDS 128   /* hellos of one guest that a server has not acknowledged; the next ones have to wait */
#define HOLDS_MAX 8192    /* of all guests: 32 KiB of memory each, from when it is first needed */
#define GUEST_TOLD 4096   /* denied frames of one guest that are told in a second: a fifth of the ring of verdicts */
#define HOLD_SLACK 1024   /* never used: the verifier adds the longest piece to the highest place */
#define LEARNT_V6_MAX 4

/* interfaces, by workload: what the agent says of one. Missing: all is denied. */
struct interface {
  __u64 network;     /* cookie of the network namespace where its gate listens: a part of gate_key */
  __be32 gate_v4[4]; /* where gates for guests listen, as ::ffff:a.b.c.d; zeros: nowhere */
  __be32 gate_v6[4];
  __be32 learn_v4[4]; /* the guest may take one address of this network that nobody has; */
  __be32 learn_v6[4]; /* of this one LEARNT_V6_MAX */
  __u8 learn_v4_bits; /* length of the prefix, of 128; 0: none may be learnt */
  __u8 learn_v6_bits;
  __u8 learns_mac;
  __u8 allows_dhcp;
  __u8 guest_mac[6];    /* unless learns_mac */
  __u8 gateway_mac[6];  /* to whom frames may be sent: the interface itself, or its bridge, */
  __u8 gateway_mac2[6]; /* or a router beyond it; zeros: nobody else */
  __u8 pad[2];
};

/* addresses: whose an address is, on the link of an interface; under the index 0: on the host, so that no two guests
 * have the same. Link-local ones are not under 0. */
struct address_key {
  __u32 index;
  __be32 address[4];
};

enum owner_kind {
  OWNER_GUEST = 1,
  OWNER_GATEWAY = 2, /* the host's own, and a router's: whom the guest may look for */
};

struct address_owner {
  __u32 index;
  __u8 kind;
  __u8 is_learnt;
  __u8 pad[2];
};

/* guests, by workload: what the programs learnt. The agent makes it, with zeros, and reads it. */
struct guest {
  struct stamp stamp; /* in whose name packets are judged that belong to no connection */
  __u32 learnt_v6;
  __u32 learnt_v4;
  __u32 learnt_local; /* link-local addresses of IPv6 */
  __u32 flows;        /* how many places of flow_places were ever taken */
  __u32 holds;        /* where to look next for a hold that nobody has */
  __u32 hand;         /* where to look next for a place that can be taken again */
  __u32 asked;        /* how many places of asked_places were taken, going round */
  __u32 told;         /* how many denied frames were told in which second: guest_told.h */
  __u8 mac[6];
  __u8 has_mac;
  __u8 pad2;
};

/* flows: what is known of a connection, or of two UDP or ICMP ends. */
struct flow_key {
  __u64 workload;
  __be32 guest[4];
  __be32 peer[4];
  __be16 guest_port;
  __be16 peer_port;
  __u8 protocol;
  __u8 pad[3];
};

enum flow_flags {
  FLOW_STARTED = 1, /* the guest's SYN was seen: sequence numbers are followed */
  FLOW_STAMPED = 2, /* it offers TCP timestamps, and the server has not refused them */
  FLOW_SENT_FIN = 4,
  FLOW_HELD = 8,       /* has a hold */
  FLOW_RESET = 16,     /* by the guest, or by us */
  FLOW_SHUNS = 32,     /* `shunned` is to be looked at */
  FLOW_OWN_RESET = 64, /* a reset of ours is on its way to the server */
};

enum peer_flags { PEER_FIN = 1, PEER_RESET = 2 };

/* What the programs know of a flow. Of TCP: what on_guest_in writes, while another CPU may be about the guest's side,
 * are words of their own, each of which says for which connection of these two ends it was written: by `first`, which
 * is never used twice in a row. */
struct guest_flow {
  struct stamp stamp;
  struct verified_name name;
  __u64 used_ns;
  __u64 answered;    /* first << 32 | sequence number of the server's first byte */
  __u64 acked;       /* first << 32 | what the server has acknowledged */
  __u64 peer_next;   /* first << 32 | behind the server's last byte */
  __u64 peer_end;    /* first << 32 | peer_flags */
  __u64 peer_fin_ns; /* when its FIN came */
  __u32 first;       /* sequence number of the guest's first byte */
  __u32 next;        /* behind the last byte that was inspected and passed */
  __u32 sent;        /* behind the last one that passed */
  __u32 base;        /* of the first byte in the hold */
  __u32 walked;      /* where the next record begins that is still to be read */
  __u32 peer_acked;  /* by the guest */
  __u32 last_stamp;  /* highest TSval of the guest */
  __u32 shunned;     /* first byte of the server in the connection before: its late answers begin no new one */
  __u32 place;
  __u32 hold_place;
  __u32 flags;
  __u32 fin; /* behind the guest's FIN */
};

/* holds: the inspected bytes of a connection, until the server has acknowledged them; the n-th of a guest. */
struct hold {
  __u64 used_ns;
  __u32 length;
  __u32 pad;
  __u8 bytes[HOLD_BYTES + HOLD_SLACK];
};

/* flow_places, hold_places: whose a guest's n-th flow is, and its n-th hold. So each guest has a bounded number. */
struct place_key {
  __u64 workload;
  __u32 place;
  __u32 pad;
};

/* asked: whom the guest meant to ask from a port, when it was led to the gate. */
struct asked_key {
  __u64 workload;
  __be32 guest[4];
  __be16 port;
  __u8 protocol;
  __u8 pad[5];
};

struct asked {
  __be32 address[4];
};
