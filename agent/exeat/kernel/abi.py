"""What the programs and the agent tell each other. Twin: bpf/abi.h; a test compares size and offset of every field."""

from ctypes import Structure, c_char, c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum

from exeat.kernel.entries import LIMITS, NAME_MAX, HostKey

# A changed layout gets a new number, and with it a new directory of pins: maps of two layouts never meet.
LAYOUT = 3

ANCESTORS_MAX = 16
NEVER = 2**64 - 1
VERDICTS = 5
REASONS = 128


class KernelMode(IntEnum):
    """Twin: enum mode."""

    DEFAULT = 0
    ENFORCE = 1
    MONITOR = 2
    OPEN = 3
    QUARANTINE = 4


class Hook(IntEnum):
    """Which program judged. Twin: enum hook."""

    SOCKET = 1
    OPTION = 2
    CONNECT = 3
    SEND = 4
    HELLO = 5
    PACKET = 6
    QUERY = 7  # no program: the gate
    AGENT = 8  # no program: the agent, about a policy
    GUEST = 9  # a packet of a guest, at its interface
    FRAME = 10  # a frame of a packet socket, at an interface


class Outcome(IntEnum):
    """The judge's answer. Twin: enum outcome in judge.h."""

    DENY = 0
    ALLOW = 1
    ASK_NAME = 2


class Limited(IntEnum):
    """What is limited: the place in `limits` and `windows`, and the number of its bit. Twin: enum limited."""

    BYTES = 0
    CONNECTIONS = 1
    DESTINATIONS = 2


class Traffic(Structure):
    """Twin: struct traffic."""

    _fields_ = (
        ("packets_out", c_uint64),
        ("bytes_out", c_uint64),
        ("packets_in", c_uint64),
        ("bytes_in", c_uint64),
        ("verdicts", c_uint64 * VERDICTS),
    )


class Window(Structure):
    """Twin: struct window."""

    _fields_ = (("start_ns", c_uint64), ("count", c_uint64))


class Usage(Structure):
    """Twin: struct usage."""

    _fields_ = (("lock", c_uint32), ("reported", c_uint32), ("windows", Window * LIMITS))


class DestinationKey(Structure):
    """Twin: struct destination_key."""

    _fields_ = (("workload", c_uint64), ("address", c_uint8 * 16))


class Destination(Structure):
    """Twin: struct destination."""

    _fields_ = (("start_ns", c_uint64), ("ordinal", c_uint32), ("pad", c_uint32))


class OrdinalKey(Structure):
    """Twin: struct ordinal_key."""

    _fields_ = (("workload", c_uint64), ("ordinal", c_uint32), ("pad", c_uint32))


class Ordinal(Structure):
    """Twin: struct ordinal."""

    _fields_ = (("address", c_uint8 * 16),)


class Stamp(Structure):
    """Twin: struct stamp."""

    _fields_ = (
        ("workload", c_uint64),
        ("epoch", c_uint64),
        ("user_cgroup", c_uint64),
        ("cookie", c_uint64),
        ("generation", c_uint64),
        ("until_ns", c_uint64),
        ("address", c_uint8 * 16),
        ("destination", c_uint64),
        ("policy_id", c_uint32),
        ("rule_id", c_uint32),
        ("skip", c_uint32),
        ("pid", c_uint32),
        ("uid", c_uint32),
        ("told", c_uint32),
        ("first_seq", c_uint32),
        ("passed", c_uint32),
        ("state", c_uint8),
        ("is_lenient", c_uint8),
        ("is_hashed", c_uint8),
        ("has_early_data", c_uint8),
        ("after_ccs", c_uint8),
        ("is_metered", c_uint8),
        ("gate_port", c_uint8 * 2),
        ("comm", c_char * 16),
    )


class VerifiedName(Structure):
    """Twin: struct verified_name."""

    _fields_ = (
        ("address", c_uint8 * 16),
        ("key", HostKey),
        ("length", c_uint16),
        ("dots", c_uint16),
        ("has_ech", c_uint8),
        ("pad", c_uint8 * 3),
    )


class Event(Structure):
    """Twin: struct event."""

    _fields_ = (
        ("at_ns", c_uint64),
        ("workload", c_uint64),
        ("cookie", c_uint64),
        ("judged_ns", c_uint64),
        ("address", c_uint8 * 16),
        ("source", c_uint8 * 16),
        ("policy_id", c_uint32),
        ("rule_id", c_uint32),
        ("pid", c_uint32),
        ("uid", c_uint32),
        ("bytes", c_uint32),
        ("detail", c_uint32),
        ("port", c_uint8 * 2),
        ("source_port", c_uint8 * 2),
        ("verdict", c_uint8),
        ("reason", c_uint8),
        ("hook", c_uint8),
        ("protocol", c_uint8),
        ("comm", c_char * 16),
        ("name_length", c_uint16),
        ("name_is_reversed", c_uint8),
        ("pad", c_uint8 * 5),
        ("name", c_uint8 * (NAME_MAX + 1)),
        ("pad2", c_uint8 * 4),
    )


class Question(Structure):
    """Twin: struct question."""

    _fields_ = (
        ("policy_id", c_uint32),
        ("protocol", c_uint8),
        ("is_established", c_uint8),
        ("port", c_uint8 * 2),
        ("address", c_uint8 * 16),
        ("name", VerifiedName),
        ("ret_rule", c_uint32),
        ("ret_outcome", c_uint8),
        ("ret_reason", c_uint8),
        ("pad2", c_uint8 * 2),
    )


class HelloAnswer(Structure):
    """Twin: struct hello_answer."""

    _fields_ = (
        ("ret_reason", c_uint8),
        ("ret_has_ech", c_uint8),
        ("ret_has_early_data", c_uint8),
        ("ret_is_incomplete", c_uint8),
        ("ret_need", c_uint32),
        ("ret_consumed", c_uint32),
        ("ret_name_length", c_uint32),
    )
