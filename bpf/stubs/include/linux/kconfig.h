/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Stands in for the kernel's own header, which most hosts lack: BCC asks for it, our programs use UAPI types only. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
