/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Verdicts on their way to the agent. What does not fit into the ring is counted as lost, never waited for. */
#pragma once

#include "address.h"
#include "count.h"
#include "judge.h"
#include "kernel_memory.h"

/* What a hook has to tell beside the judgement. */
struct telling {
  __u64 started_ns;
  __u32 bytes;
  __u32 detail;
  __u8 hook;
  const struct scratch *scratch; /* holds the hello whose name is told, if any */
  __u32 name_at;
  __u16 name_length;
  __be16 source_port; /* where the hook does not see it in a packet */
  __be32 source[4];
};

static __always_inline void tell_process(struct stamp *stamp) {
  __u64 pid_tgid = bpf_get_current_pid_tgid();

  stamp->pid = pid_tgid >> 32;
  stamp->uid = bpf_get_current_uid_gid();
  bpf_get_current_comm(stamp->comm, sizeof(stamp->comm));
}

static __always_inline void emit(const struct stamp *stamp, const struct standing *standing, const struct flow *flow,
                                 const struct telling *telling, __u8 verdict, __u8 reason, __u32 rule_id) {
  struct event *event;
  __u32 lost = 0;
  __u64 *counter;

  count_verdict(standing->workload, verdict, reason);
  event = events.ringbuf_reserve(sizeof(struct event));
  if (!event) {
    counter = counters.lookup(&lost);
    if (counter)
      __sync_fetch_and_add(counter, 1);
    return;
  }
  event->at_ns = bpf_ktime_get_boot_ns();
  event->judged_ns = event->at_ns - telling->started_ns;
  event->workload = standing->workload;
  event->cookie = stamp->cookie;
  copy_address(event->address, flow->address);
  copy_address(event->source, flow->source);
  event->policy_id = standing->policy_id;
  event->rule_id = rule_id;
  event->pid = stamp->pid;
  event->uid = stamp->uid;
  __builtin_memcpy(event->comm, stamp->comm, sizeof(event->comm));
  event->bytes = telling->bytes;
  event->detail = telling->detail;
  event->port = flow->port;
  event->source_port = flow->source_port;
  event->verdict = verdict;
  event->reason = reason;
  event->hook = telling->hook;
  event->protocol = flow->protocol;
  event->name_is_reversed = 0;
  event->name_length = 0;
  __builtin_memset(event->pad, 0, sizeof(event->pad));
  __builtin_memset(event->pad2, 0, sizeof(event->pad2));
  if (telling->scratch && telling->name_length) {
    event->name_length = telling->name_length;
    read_kernel(event->name, ((telling->name_length - 1) & 255) + 1,
                &telling->scratch->hello[telling->name_at & (HELLO_MAX - 1)]);
  }
  events.ringbuf_submit(event, 0);
}
