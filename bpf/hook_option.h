/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* setsockopt(): refuses what would put something else on the wire than what was judged. */
#pragma once

#include "stamp.h"

/* Numbers that no UAPI header names, or only a newer one. */
enum {
  SOL_IP = 0,
  SOL_TCP = 6,
  SOL_IPV6 = 41,
  OPTION_TCP_MD5SIG_EXT = 32,
  OPTION_TCP_FASTOPEN_NO_COOKIE = 34,
  OPTION_TCP_AO_ADD_KEY = 38,
  OPTION_TCP_AO_DEL_KEY = 39,
  OPTION_TCP_AO_INFO = 40,
  OPTION_TCP_AO_REPAIR = 42,
  OPTION_IP_XFRM_POLICY = 17,
  OPTION_IPV6_ADDRFORM = 1,
  SOL_PACKET = 263,
  OPTION_PACKET_QDISC_BYPASS = 20,
  SOL_XDP = 283,
};

static __always_inline bool is_refused_tcp(int option, __u8 state) {
  switch (option) {
  case TCP_ULP: /* kernel TLS would encrypt what on_message reads in clear; fine once no name is awaited */
    return state != STATE_OPEN && state != STATE_VERIFIED;
  case TCP_REPAIR: /* a connection without a connect() */
  case TCP_REPAIR_QUEUE:
  case TCP_MD5SIG: /* segments that the server ignores and an inspector would not */
  case OPTION_TCP_MD5SIG_EXT:
  case OPTION_TCP_AO_ADD_KEY:
  case OPTION_TCP_AO_DEL_KEY:
  case OPTION_TCP_AO_INFO:
  case OPTION_TCP_AO_REPAIR:
  case TCP_FASTOPEN: /* data in the SYN leaves before the verdict */
  case TCP_FASTOPEN_CONNECT:
  case TCP_FASTOPEN_KEY:
  case OPTION_TCP_FASTOPEN_NO_COOKIE:
    return 1;
  }
  return 0;
}

static __always_inline bool is_refused_v4(int option) {
  switch (option) {
  case IP_OPTIONS: /* a source route: the packet goes elsewhere first */
  case IP_HDRINCL:
  case IP_IPSEC_POLICY:
  case OPTION_IP_XFRM_POLICY:
  case IP_ADD_MEMBERSHIP: /* the kernel reports a joined group on the link: 23 bits a join */
  case IP_ADD_SOURCE_MEMBERSHIP:
  case MCAST_JOIN_GROUP:
  case MCAST_JOIN_SOURCE_GROUP:
    return 1;
  }
  return 0;
}

static __always_inline bool is_refused_v6(int option) {
  switch (option) {
  case IPV6_RTHDR: /* needs no privilege: the packet goes to the first segment */
  case IPV6_HOPOPTS:
  case IPV6_DSTOPTS:
  case IPV6_RTHDRDSTOPTS:
  case IPV6_2292PKTOPTIONS:
  case IPV6_2292RTHDR:
  case IPV6_2292HOPOPTS:
  case IPV6_2292DSTOPTS:
  case OPTION_IPV6_ADDRFORM: /* turns a judged socket into another family's */
  case IPV6_HDRINCL:
  case IPV6_IPSEC_POLICY:
  case IPV6_XFRM_POLICY:
  case IPV6_ADD_MEMBERSHIP:
  case IPV6_JOIN_ANYCAST:
  case MCAST_JOIN_GROUP:
  case MCAST_JOIN_SOURCE_GROUP:
    return 1;
  }
  return 0;
}

/* Of sockets that write frames: on_frame_out would see no more of them. */
static __always_inline bool is_refused_link(int level, int option) {
  return level == SOL_XDP || (level == SOL_PACKET && option == OPTION_PACKET_QDISC_BYPASS);
}

int on_option(struct bpf_sockopt *ctx) {
  struct telling telling = {.started_ns = bpf_ktime_get_boot_ns(), .hook = HOOK_OPTION};
  struct judgement judgement = {.reason = SOCKET_OPTION};
  int level = ctx->level, option = ctx->optname;
  struct standing standing;
  struct flow flow = {};
  struct stamp *stamp;
  __u64 workload = is_refused_link(level, option) ? workload_of_task() : 0;
  bool is_refused = workload != 0;

  if (ctx->optlen > PAGE_SIZE)
    ctx->optlen = 0; /* the kernel goes on with the caller's buffer; left as it is, it would fail with EFAULT */
  if (!ctx->sk)
    return 1;
  stamp = stamps.sk_storage_get(ctx->sk, 0, workload ? BPF_SK_STORAGE_GET_F_CREATE : 0);
  if (workload) { /* no other hook stamps these sockets */
    if (!stamp) {
      count_verdict(workload, ERROR, STAMP_MISSING);
      return 0;
    }
    begin_stamp(stamp, workload, epoch_now());
    tell_process(stamp);
  }
  if (!stamp || stamp->workload == 0)
    return 1;
  if (level == SOL_TCP)
    is_refused = is_refused_tcp(option, stamp->state);
  else if (level == SOL_IP)
    is_refused = is_refused_v4(option);
  else if (level == SOL_IPV6)
    is_refused = is_refused_v6(option);
  if (!is_refused)
    return 1;
  find_standing(stamp->workload, telling.started_ns, &standing);
  telling.detail = (__u32)level << 16 | (option & 0xffff);
  flow.protocol = level;
  return settle(stamp, &standing, &judgement, &flow, &telling);
}
