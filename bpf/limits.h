/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How much of everything there may be, and where each number comes from. */
#pragma once

/* A handshake message with its 4-byte header. The largest hello seen in practice is under 4 KiB (post-quantum key
 * shares, resumption ticket, padding); OpenSSL itself stops at 128 KiB. What is longer is denied. */
#define HELLO_MAX 16384
#define RECORDS_MAX 64    /* clients cut at 512 bytes or more; 64 records are room for tools that cut at one label */
#define EXTENSIONS_MAX 64 /* browsers send at most 20 */
#define RECORD_HEADER 5
#define RECORD_MAX 16384 /* RFC 8446 5.1 */

/* An LPM trie's key holds 256 bytes: 4 for the set of names, 1 for the end mark. Twin: NAME_MAX in model/names.py. */
#define NAME_MAX 251
#define LABEL_MAX 63

#define HOLD_BYTES 16384 /* of a guest's stream: a hello with the headers of its records */

#define ANCESTORS_MAX 16 /* deepest cgroup that can be bound: Kubernetes uses 6 levels. Twin: kernel/abi.py */

/* Buffers for hellos being read. Not per CPU: sk_msg programs can be preempted by one another on a CPU, and a buffer
 * that two hellos share would let one be judged by the other's name. */
#define SCRATCHES 64
#define SCRATCH_TRIES 8

#define WORKLOADS_MAX 16384
#define POLICIES_MAX 16384
#define NETWORKS_MAX 4194304
#define PORTS_MAX 4194304
#define HOSTS_MAX 4194304
#define GRANTS_MAX 262144 /* of each map; one workload may be given 65,536, and as many names */
#define GATES_MAX 16384
#define ASKERS_MAX 4096 /* questions that are being answered: the oldest lose their process's name */
/* Of all workloads together; a policy may limit one to 65,536. Full: who has such a limit has reached it. */
#define DESTINATIONS_MAX 262144
#define SOCKETS_MAX 262144
#define EVENT_PAGES 2048 /* 8 MiB: 20,000 verdicts, a third of a second at 60,000/s */

#define NEVER (~0ULL)
