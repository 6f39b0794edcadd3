"""What agent and programs tell each other about interfaces. Twin: bpf/guest_abi.h; a test compares every field."""

from ctypes import Structure, c_uint8, c_uint32, c_uint64

from exeat.kernel.abi import Stamp, VerifiedName

INTERFACE_BIT = 1 << 62
LEARNT_V6_MAX = 4
OWNER_GUEST, OWNER_GATEWAY = 1, 2
GUEST_FLOWS = 8192
GUEST_HOLDS = 128
GUEST_ASKED = 4096
GUEST_TOLD = 4096


class Interface(Structure):
    """Twin: struct interface."""

    _fields_ = (
        ("network", c_uint64),
        ("gate_v4", c_uint8 * 16),
        ("gate_v6", c_uint8 * 16),
        ("learn_v4", c_uint8 * 16),
        ("learn_v6", c_uint8 * 16),
        ("learn_v4_bits", c_uint8),
        ("learn_v6_bits", c_uint8),
        ("learns_mac", c_uint8),
        ("allows_dhcp", c_uint8),
        ("guest_mac", c_uint8 * 6),
        ("gateway_mac", c_uint8 * 6),
        ("gateway_mac2", c_uint8 * 6),
        ("pad", c_uint8 * 2),
    )


class AddressKey(Structure):
    """Twin: struct address_key."""

    _fields_ = (("index", c_uint32), ("address", c_uint8 * 16))


class AddressOwner(Structure):
    """Twin: struct address_owner."""

    _fields_ = (("index", c_uint32), ("kind", c_uint8), ("is_learnt", c_uint8), ("pad", c_uint8 * 2))


class Guest(Structure):
    """Twin: struct guest."""

    _fields_ = (
        ("stamp", Stamp),
        ("learnt_v6", c_uint32),
        ("learnt_v4", c_uint32),
        ("learnt_local", c_uint32),
        ("flows", c_uint32),
        ("holds", c_uint32),
        ("hand", c_uint32),
        ("asked", c_uint32),
        ("told", c_uint32),
        ("mac", c_uint8 * 6),
        ("has_mac", c_uint8),
        ("pad2", c_uint8),
    )


class FlowKey(Structure):
    """Twin: struct flow_key."""

    _fields_ = (
        ("workload", c_uint64),
        ("guest", c_uint8 * 16),
        ("peer", c_uint8 * 16),
        ("guest_port", c_uint8 * 2),
        ("peer_port", c_uint8 * 2),
        ("protocol", c_uint8),
        ("pad", c_uint8 * 3),
    )


class GuestFlow(Structure):
    """Twin: struct guest_flow."""

    _fields_ = (
        ("stamp", Stamp),
        ("name", VerifiedName),
        ("used_ns", c_uint64),
        ("answered", c_uint64),
        ("acked", c_uint64),
        ("peer_next", c_uint64),
        ("peer_end", c_uint64),
        ("peer_fin_ns", c_uint64),
        ("first", c_uint32),
        ("next", c_uint32),
        ("sent", c_uint32),
        ("base", c_uint32),
        ("walked", c_uint32),
        ("peer_acked", c_uint32),
        ("last_stamp", c_uint32),
        ("shunned", c_uint32),
        ("place", c_uint32),
        ("hold_place", c_uint32),
        ("flags", c_uint32),
        ("fin", c_uint32),
    )


class PlaceKey(Structure):
    """Twin: struct place_key."""

    _fields_ = (("workload", c_uint64), ("place", c_uint32), ("pad", c_uint32))


class AskedKey(Structure):
    """Twin: struct asked_key."""

    _fields_ = (
        ("workload", c_uint64),
        ("guest", c_uint8 * 16),
        ("port", c_uint8 * 2),
        ("protocol", c_uint8),
        ("pad", c_uint8 * 5),
    )


class Asked(Structure):
    """Twin: struct asked."""

    _fields_ = (("address", c_uint8 * 16),)
