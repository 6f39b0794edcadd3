/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Memory that the verifier lets nobody read directly. */
#pragma once

/* bpf_probe_read_kernel under a name of ours: BCC puts bpf_probe_read in the place of that one where it may not read
 * addresses in /proc/kallsyms (no CAP_SYSLOG), and sk_msg programs have no such call. */
static long (*read_kernel)(void *, __u32, const void *) = (void *)BPF_FUNC_probe_read_kernel;
