/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A message being sent: held back, or let go as a whole. */
#pragma once

#include "stamp.h"
#include "kernel_memory.h"

/* Hold the message until so many bytes of it are there. Dropped, where the kernel can hold no more fragments: a pass
 * would let it go unread. */
static __always_inline int hold(struct sk_msg_md *msg, __u32 bytes) {
  bpf_msg_cork_bytes(msg, bytes);
  return SK_DROP;
}

/* Lets the whole message go. By way of a redirection to the same socket, because the kernel forgets that verdict before
 * it sends (tcp_bpf_send_verdict, 6.1 to 6.18): after a plain pass that failed, for want of memory or by a flag such as
 * MSG_FASTOPEN, it would not ask us about the next message. Never in part: the rest of a message that was cut by
 * bpf_msg_apply_bytes cannot be held, the kernel then mixes up what it has copied. */
static __always_inline int let_go(struct sk_msg_md *msg, struct stamp *stamp, __u32 size) {
  __u64 cookie = stamp->cookie;
  int action = sockets.msg_redirect_hash(msg, &cookie, 0);

  stamp->passed += size;
  return action;
}

/* Whether the send queue holds exactly what passed here. A send() that began before the socket was watched goes on past
 * us (it sleeps inside the kernel until the handshake is over), and a send that failed half-way would leave us out of
 * step with the server: either would put bytes before the server that nobody judged. */
static __always_inline bool is_in_step(struct sk_msg_md *msg, const struct stamp *stamp) {
  void *tcp = bpf_skc_to_tcp_sock(msg->sk);
  __u32 write_seq;

  if (!tcp || read_kernel(&write_seq, sizeof(write_seq), tcp + TCP_SOCK_WRITE_SEQ))
    return 0;
  return write_seq - stamp->first_seq == stamp->passed;
}
