"""What the agent writes for the programs to judge by. Twin: bpf/entries.h; a test compares every field's place."""

from ctypes import Structure, c_char, c_uint8, c_uint16, c_uint32, c_uint64

NAME_MAX = 251
GRANT_SLOTS = 16
LIMITS = 3
GATE_PRIORITY = 0x65786561  # of the gate's own sockets
SPARED = 0xFFFFFFFF  # in place of a policy's id


class Settings(Structure):
    """Twin: struct settings."""

    _fields_ = (("epoch", c_uint64), ("next_policy_id", c_uint32), ("pad", c_uint32))


class Workload(Structure):
    """Twin: struct workload."""

    _fields_ = (
        ("generation", c_uint64),
        ("override_until_ns", c_uint64),
        ("policy_id", c_uint32),
        ("mode_override", c_uint8),
        ("pad", c_uint8 * 3),
    )


class Limit(Structure):
    """Twin: struct limit."""

    _fields_ = (("max", c_uint64), ("per_ns", c_uint64))


class Policy(Structure):
    """Twin: struct policy."""

    _fields_ = (
        ("until_ns", c_uint64),
        ("ids", c_uint32),
        ("mode", c_uint8),
        ("allows_icmp", c_uint8),
        ("has_hosts", c_uint8),
        ("limited", c_uint8),
        ("limits", Limit * LIMITS),
        ("denies", c_uint8),
        ("quarantines", c_uint8),
        ("quarantines_undeclared", c_uint8),
        ("pad", c_uint8 * 5),
    )


class NetworkKey(Structure):
    """Twin: struct network_key."""

    _fields_ = (("prefixlen", c_uint32), ("policy_id", c_uint32), ("address", c_uint8 * 16))


class Network(Structure):
    """Twin: struct network."""

    _fields_ = (("ports_id", c_uint32),)


class PortKey(Structure):
    """Twin: struct port_key."""

    _fields_ = (
        ("prefixlen", c_uint32),
        ("ports_id", c_uint32),
        ("protocol", c_uint8),
        ("pad", c_uint8),
        ("port", c_uint8 * 2),
    )


class Port(Structure):
    """Twin: struct port."""

    _fields_ = (
        ("open_until_ns", c_uint64),
        ("named_until_ns", c_uint64),
        ("named_ech_until_ns", c_uint64),
        ("open_rule", c_uint32),
        ("named_rule", c_uint32),
        ("names_id", c_uint32),
        ("pad", c_uint32),
    )


class HostKey(Structure):
    """Twin: struct host_key."""

    _fields_ = (("prefixlen", c_uint32), ("names_id", c_uint32), ("reversed", c_uint8 * (NAME_MAX + 1)))


class HostSlot(Structure):
    """Twin: struct host_slot."""

    _fields_ = (("until_ns", c_uint64), ("ech_until_ns", c_uint64), ("rule", c_uint32), ("ports_id", c_uint32))


class Host(Structure):
    """Twin: struct host."""

    _fields_ = (
        ("one", HostSlot),
        ("many", HostSlot),
        ("dots", c_uint16),
        ("is_exact", c_uint8),
        ("is_doh", c_uint8),
        ("pad", c_uint8 * 4),
    )


class GrantedKey(Structure):
    """Twin: struct granted_key."""

    _fields_ = (("policy_id", c_uint32), ("address", c_uint8 * 16))


class GrantSlot(Structure):
    """Twin: struct grant_slot."""

    _fields_ = (("until_ns", c_uint64), ("ports_id", c_uint32), ("pad", c_uint32))


class Granted(Structure):
    """Twin: struct granted."""

    _fields_ = (("used_ns", c_uint64), ("slots", GrantSlot * GRANT_SLOTS))


class GrantKey(Structure):
    """Twin: struct grant_key."""

    _fields_ = (
        ("address", c_uint8 * 16),
        ("policy_id", c_uint32),
        ("zero", c_uint32),
        ("reversed", c_uint8 * (NAME_MAX + 1)),
    )


class Grant(Structure):
    """Twin: struct grant."""

    _fields_ = (("until_ns", c_uint64), ("ports_id", c_uint32), ("pad", c_uint32))


class GateKey(Structure):
    """Twin: struct gate_key."""

    _fields_ = (("workload", c_uint64), ("network", c_uint64))


class Gate(Structure):
    """Twin: struct gate."""

    _fields_ = (("port", c_uint8 * 2), ("pad", c_uint8 * 6))


class AskerKey(Structure):
    """Twin: struct asker_key."""

    _fields_ = (("workload", c_uint64), ("port", c_uint8 * 2), ("protocol", c_uint8), ("pad", c_uint8 * 5))


class Asker(Structure):
    """Twin: struct asker."""

    _fields_ = (("address", c_uint8 * 16), ("pid", c_uint32), ("uid", c_uint32), ("comm", c_char * 16))


class Server(Structure):
    """Twin: struct server."""

    _fields_ = (("network", c_uint64), ("address", c_uint8 * 16))
