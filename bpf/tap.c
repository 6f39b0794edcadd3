/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The interface path: guests behind a tap or a veth, whose packets touch no socket of the host. The judge, the reader
 * of hellos and every table are those of the cgroup path. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include "guest_abi.h"
#include "guest_maps.h"
#include "count.h"
#include "judge.h"
#include "judge_grant.h"
#include "judge_name.h"
#include "hello.h"
#include "meter.h"
#include "packet.h"
#include "segment.h"
#include "flight.h"
#include "verify.h"
#include "guest_owner.h"
#include "guest_segment.h"
#include "guest_headers.h"
#include "guest_link.h"
#include "guest_sum.h"
#include "guest_reply.h"
#include "guest_prohibited.h"
#include "guest_bench.h"
#include "guest_state.h"
#include "guest_flow.h"
#include "guest_gate.h"
#include "guest_judge.h"
#include "guest_bytes.h"
#include "guest_inspection.h"
#include "hook_guest_out.h"
#include "hook_guest_unknown.h"
#include "hook_guest_hello.h"
#include "hook_guest_bytes.h"
#include "hook_guest_walk.h"
#include "hook_guest_read.h"
#include "hook_guest_name.h"
#include "hook_guest_refused.h"
#include "hook_guest_in.h"
#include "hook_guest_anew.h"
