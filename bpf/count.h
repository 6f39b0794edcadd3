/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: exact even where events are lost. Atomic, because a program can be preempted by another on its CPU. */
#pragma once

#include "maps.h"

static __always_inline void count_verdict(__u64 workload, __u8 verdict, __u8 reason) {
  __u32 index = (verdict * REASONS + reason) & 1023;
  __u64 *counter = counters.lookup(&index);
  struct traffic *of_workload;

  if (counter)
    __sync_fetch_and_add(counter, 1);
  of_workload = traffic.lookup(&workload);
  if (of_workload && verdict < VERDICTS)
    __sync_fetch_and_add(&of_workload->verdicts[verdict], 1);
}

static __always_inline void count_packet_out(__u64 workload, __u32 bytes) {
  struct traffic *of_workload = traffic.lookup(&workload);

  if (of_workload) {
    __sync_fetch_and_add(&of_workload->packets_out, 1);
    __sync_fetch_and_add(&of_workload->bytes_out, bytes);
  }
}

static __always_inline void count_packet_in(__u64 workload, __u32 bytes) {
  struct traffic *of_workload = traffic.lookup(&workload);

  if (of_workload) {
    __sync_fetch_and_add(&of_workload->packets_in, 1);
    __sync_fetch_and_add(&of_workload->bytes_in, bytes);
  }
}
