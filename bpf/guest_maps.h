/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps of interfaces, pinned beside the others. */
#pragma once

#include "guest_abi.h"
#include "maps.h"

/* What the agent says of an interface. */
BPF_TABLE_PINNED("hash", u64, struct interface, interfaces, INTERFACES_MAX, PIN_DIR "/interfaces", NO_PREALLOC);
/* What the programs learnt of it. */
BPF_TABLE_PINNED("hash", u64, struct guest, guests, INTERFACES_MAX, PIN_DIR "/guests", NO_PREALLOC);
/* Whose an address is. */
BPF_TABLE_PINNED("hash", struct address_key, struct address_owner, addresses, ADDRESSES_MAX, PIN_DIR "/addresses",
                 NO_PREALLOC);
/* What is known of a connection. */
BPF_TABLE_PINNED("hash", struct flow_key, struct guest_flow, flows, FLOWS_MAX, PIN_DIR "/flows", NO_PREALLOC);
/* Which was a guest's n-th. */
BPF_TABLE_PINNED("hash", struct place_key, struct flow_key, flow_places, FLOWS_MAX, PIN_DIR "/flow_places",
                 NO_PREALLOC);
/* Inspected bytes that a server has not acknowledged. */
BPF_TABLE_PINNED("hash", struct place_key, struct hold, holds, HOLDS_MAX, PIN_DIR "/holds", NO_PREALLOC);
/* Whose they are; an entry is a claim. */
BPF_TABLE_PINNED("hash", struct place_key, struct flow_key, hold_places, HOLDS_MAX, PIN_DIR "/hold_places",
                 NO_PREALLOC);
/* Connections that a program is about: an entry is a lock. */
BPF_TABLE_PINNED("hash", struct flow_key, u64, inspections, HOLDS_MAX, PIN_DIR "/inspections", NO_PREALLOC);
/* Whom a guest meant to ask. */
BPF_TABLE_PINNED("hash", struct asked_key, struct asked, asked, ASKED_MAX, PIN_DIR "/asked", NO_PREALLOC);
/* Which was a guest's n-th question. */
BPF_TABLE_PINNED("hash", struct place_key, struct asked_key, asked_places, ASKED_MAX, PIN_DIR "/asked_places",
                 NO_PREALLOC);
/* Never written: what a new flow and a new hold are made of. */
struct blank {
  struct guest_flow flow;
  struct hold hold;
};
BPF_TABLE_PINNED("array", u32, struct blank, blanks, 1, PIN_DIR "/blanks");
/* The programs that go on where on_guest_out ends; written by the agent. */
BPF_TABLE_PINNED("prog", u32, u32, guest_steps, 8, PIN_DIR "/guest_steps", 0);
