/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Every map, pinned under PIN_DIR (given by the loader), so that a new version of the programs goes on with what the
 * old one knew, and enforcement needs no agent. */
#pragma once

#include "abi.h"

#define NO_PREALLOC 1U   /* BPF_F_NO_PREALLOC, required by LPM tries and socket storage */
#define CLONED (1U << 9) /* BPF_F_CLONE: an accepted socket inherits its listener's stamp */

/* BCC's own macros for these kinds of map know no pin path. */
#define PINNED_RING(_name, _pages, _path)    \
  struct _name##_table_t {                   \
    int key;                                 \
    u32 leaf;                                \
    int (*ringbuf_output)(void *, u64, u64); \
    void *(*ringbuf_reserve)(u64);           \
    void (*ringbuf_discard)(void *, u64);    \
    void (*ringbuf_submit)(void *, u64);     \
    u32 max_entries;                         \
  };                                         \
  __attribute__((section("maps/ringbuf:" _path))) struct _name##_table_t _name = {.max_entries = ((_pages)*PAGE_SIZE)}

#define PINNED_SOCKHASH(_name, _key_type, _max_entries, _path)                                                     \
  struct _name##_table_t {                                                                                         \
    _key_type key;                                                                                                 \
    int leaf;                                                                                                      \
    int (*update)(_key_type *, int *);                                                                             \
    int (*delete)(_key_type *);                                                                                    \
    int (*sock_hash_update)(void *, void *, u64);                                                                  \
    int (*msg_redirect_hash)(void *, void *, u64);                                                                 \
    int (*sk_redirect_hash)(void *, void *, u64);                                                                  \
    u32 max_entries;                                                                                               \
  };                                                                                                               \
  __attribute__((section("maps/sockhash:" _path))) struct _name##_table_t _name = {.max_entries = (_max_entries)}; \
  BPF_ANNOTATE_KV_PAIR(_name, _key_type, int)

/* The epoch, which every hook reads first. */
BPF_TABLE_PINNED("array", u32, struct settings, settings, 1, PIN_DIR "/settings");
/* Who is judged, by cgroup id. */
BPF_TABLE_PINNED("hash", u64, struct workload, workloads, WORKLOADS_MAX, PIN_DIR "/workloads", NO_PREALLOC);
/* What a workload's policy says of itself. */
BPF_TABLE_PINNED("hash", u32, struct policy, policies, POLICIES_MAX, PIN_DIR "/policies", NO_PREALLOC);
/* Which set of ports an address has under a policy. */
BPF_TABLE_PINNED("lpm_trie", struct network_key, struct network, networks, NETWORKS_MAX, PIN_DIR "/networks",
                 NO_PREALLOC);
/* What may be done on a port of a set. */
BPF_TABLE_PINNED("lpm_trie", struct port_key, struct port, ports, PORTS_MAX, PIN_DIR "/ports", NO_PREALLOC);
/* Which names a set holds. */
BPF_TABLE_PINNED("lpm_trie", struct host_key, struct host, hosts, HOSTS_MAX, PIN_DIR "/hosts", NO_PREALLOC);
/* Which addresses the gate has resolved allowed names to, and for which ports. */
BPF_TABLE_PINNED("hash", struct granted_key, struct granted, granted, GRANTS_MAX, PIN_DIR "/granted", NO_PREALLOC);
/* Which name was resolved to which address. */
BPF_TABLE_PINNED("hash", struct grant_key, struct grant, grants, GRANTS_MAX, PIN_DIR "/grants", NO_PREALLOC);
/* Where the gate listens. */
BPF_TABLE_PINNED("hash", struct gate_key, struct gate, gates, GATES_MAX, PIN_DIR "/gates", NO_PREALLOC);
/* Who asks it. */
BPF_TABLE_PINNED("lru_hash", struct asker_key, struct asker, askers, ASKERS_MAX, PIN_DIR "/askers");
/* Whom they meant to ask. */
BPF_TABLE_PINNED("sk_storage", int, struct server, servers, 0, PIN_DIR "/servers", NO_PREALLOC);
/* What is known of a socket. */
BPF_TABLE_PINNED("sk_storage", int, struct stamp, stamps, 0, PIN_DIR "/stamps", NO_PREALLOC | CLONED);
/* The name that a socket's hello gave. */
BPF_TABLE_PINNED("sk_storage", int, struct verified_name, names, 0, PIN_DIR "/names", NO_PREALLOC);
/* The sockets whose writes on_message sees, by cookie. */
PINNED_SOCKHASH(sockets, u64, SOCKETS_MAX, PIN_DIR "/sockets");
/* Verdicts on their way to the agent. */
PINNED_RING(events, EVENT_PAGES, PIN_DIR "/events");
/* How often each reason was given, by verdict * REASONS + reason; verdict 0, reason 0 counts events that were lost. */
BPF_TABLE_PINNED("percpu_array", u32, u64, counters, VERDICTS *REASONS, PIN_DIR "/counters");
/* What left and came per workload. */
BPF_TABLE_PINNED("percpu_hash", u64, struct traffic, traffic, WORKLOADS_MAX, PIN_DIR "/traffic", NO_PREALLOC);
/* What is used up of a workload's limits. */
BPF_TABLE_PINNED("hash", u64, struct usage, usage, WORKLOADS_MAX, PIN_DIR "/usage", NO_PREALLOC);
/* Which addresses it counts. */
BPF_TABLE_PINNED("hash", struct destination_key, struct destination, destinations, DESTINATIONS_MAX,
                 PIN_DIR "/destinations", NO_PREALLOC);
/* Which of them was the n-th. */
BPF_TABLE_PINNED("hash", struct ordinal_key, struct ordinal, ordinals, DESTINATIONS_MAX, PIN_DIR "/ordinals",
                 NO_PREALLOC);

/* What is found in a hello. */
struct hello {
  __u32 length;   /* of the handshake message in the scratch */
  __u32 consumed; /* bytes of the stream that it takes up */
  __u32 need;     /* not all is there: so many bytes of the stream are needed to go on */
  __u32 name_at;
  __u16 name_length;
  __u8 reason; /* why it is refused; 0: it is not */
  __u8 is_complete;
  __u8 has_ech;
  __u8 has_early_data;
};

/* Where the reading stands. In a map and volatile, so that the verifier takes each value for any value: kept in
 * registers, it would follow every combination of them through every loop. */
struct cursor {
  __u32 at;
  __u32 got;
  __u32 total;
  __u32 label;
  __u8 dots;
  __u8 before;
  __u8 last_label;
  __u8 is_decimal;
};

/* Where the reading of a message stands, record by record. */
struct walk {
  __u32 at;   /* bytes that were read or passed by */
  __u32 skip; /* bytes of the current record that are still to come */
  __u32 need; /* the message must be held until it has so many */
  __u8 after_ccs;
  __u8 has_early_data;
  __u8 is_settled;
  __u8 reason;
};

struct scratch {
  __u8 hello[2 * HELLO_MAX]; /* twice, so that a masked offset plus a masked length stays inside */
  __u16 seen[EXTENSIONS_MAX];
  struct verified_name name;
  struct hello reading;
  struct cursor cursor;
  struct walk walk;
};

/* Buffers for hellos, and who uses which: an entry in `claims` is a lock. */
BPF_TABLE_PINNED("array", u32, struct scratch, scratches, SCRATCHES, PIN_DIR "/scratches");
BPF_TABLE_PINNED("hash", u32, u64, claims, SCRATCHES, PIN_DIR "/claims");
