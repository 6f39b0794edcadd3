/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Only for the size of BCC's ring buffers, which must be a multiple of the real page: 64 KiB serves all. */
#pragma once
#define PAGE_SIZE 4096
