/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cgroup path. The loader joins these files into one text, because BCC rewrites only the file it is given. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "limits.h"
#include "reasons.h"
#include "abi.h"
#include "maps.h"
#include "count.h"
#include "address.h"
#include "judge.h"
#include "records.h"
#include "hostname.h"
#include "hello.h"
#include "events.h"
#include "stamp.h"
#include "loopback.h"
#include "packet.h"
#include "segment.h"
#include "hook_socket.h"
#include "hook_option.h"
#include "hook_connect.h"
#include "hook_sockops.h"
#include "flight.h"
#include "verify.h"
#include "hook_message.h"
#include "hook_packet.h"
#include "questions.h"
