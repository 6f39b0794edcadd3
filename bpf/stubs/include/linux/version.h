/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* BCC chooses among its own macros by these; what a kernel can do is found by trying. */
#pragma once
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
