/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The judge, asked from outside through BPF_PROG_TEST_RUN: `explain`, the sweep after a change and the tests use the
 * same code that judges traffic. Never attached to anything. */
#pragma once

#include "hello.h"
#include "judge_name.h"

int on_question(struct __sk_buff *skb) {
  struct judgement judgement = {};
  struct standing standing = {};
  struct question *question;
  struct scratch *scratch;
  struct flow flow = {};
  __u64 now_ns = bpf_ktime_get_boot_ns();
  struct policy *policy;
  __u32 slot = SCRATCHES - 1;

  scratch = scratches.lookup(&slot);
  if (!scratch)
    return 1;
  question = (struct question *)scratch->hello; /* too large for the stack */
  if (bpf_skb_load_bytes(skb, ETH_HLEN, question, sizeof(*question)))
    return 1;
  copy_address(flow.address, question->address);
  flow.port = question->port;
  flow.protocol = canonical_protocol(question->protocol);
  standing.policy_id = question->policy_id;
  policy = policies.lookup(&standing.policy_id);
  if (!policy) {
    deny(&judgement, NO_POLICY);
  } else if (now_ns >= policy->until_ns) {
    deny(&judgement, POLICY_EXPIRED);
  } else {
    standing.has_hosts = policy->has_hosts;
    judge_flow(&standing, &flow, now_ns, question->is_established, &judgement);
  }
  if (judgement.outcome == ASK_NAME && question->name.length)
    judge_name(&standing, &flow, &question->name, now_ns, question->is_established, &judgement);
  question->ret_rule = judgement.rule_id;
  question->ret_outcome = judgement.outcome;
  question->ret_reason = judgement.reason;
  return bpf_skb_store_bytes(skb, ETH_HLEN, question, sizeof(*question), 0) ? 1 : 0;
}

/* The stream follows the Ethernet header; the answer is written over its beginning. */
int on_hello_question(struct __sk_buff *skb) {
  struct stream stream = {.skb = skb, .length = skb->len};
  struct hello_answer answer = {};
  struct scratch *scratch;
  struct hello hello = {};
  __u32 slot = SCRATCHES - 1;

  scratch = scratches.lookup(&slot);
  if (!scratch)
    return 1;
  read_hello(&stream, scratch);
  hello = scratch->reading;
  answer.ret_reason = hello.reason;
  answer.ret_has_ech = hello.has_ech;
  answer.ret_has_early_data = hello.has_early_data;
  answer.ret_is_incomplete = !hello.reason && !hello.is_complete;
  answer.ret_need = hello.need;
  answer.ret_consumed = hello.consumed;
  if (!answer.ret_reason && !answer.ret_is_incomplete)
    answer.ret_name_length = hello.name_length;
  return bpf_skb_store_bytes(skb, 0, &answer, sizeof(answer), 0) ? 1 : 0;
}
