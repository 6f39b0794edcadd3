"""What was judged, how, and why: the words of every denial, the same in C, JSON, protobuf and metrics.

Both enums are append-only. Twins: enum verdict and enum reason in bpf/abi.h, Verdict and Reason in
proto/exeat/v1/verdict.proto; a test compares them. docs/reasons.md tells each one's story.
"""

from enum import IntEnum


class Verdict(IntEnum):
    """One judgement's outcome."""

    FORWARDED = 1
    DROPPED = 2
    AUDIT = 3  # would have been dropped, had the mode been enforce
    ERROR = 4  # exeat itself failed; the traffic was dropped


class Reason(IntEnum):
    """Why. A reader may rely on each number and word for ever."""

    # Allowed
    NETWORK_ALLOWED = 1
    NAME_ALLOWED = 2
    OWN_LOOPBACK = 3
    OPEN_MODE = 4
    GRANTED = 5
    RESOLVED = 6
    # The destination
    ADDRESS_NOT_ALLOWED = 16
    PORT_NOT_ALLOWED = 17
    RULE_EXPIRED = 18
    POLICY_EXPIRED = 19
    QUARANTINED = 20
    LOOPBACK_NOT_OWN = 21
    LOOPBACK_NOBODY = 22
    REVOKED = 23
    NOT_RESOLVED = 24
    GRANT_EXPIRED = 25
    DNS_ELSEWHERE = 26
    DNS_OVER_TLS = 27
    MULTICAST_DNS = 28
    LLMNR = 29
    NETBIOS = 30
    GATE_NOT_OWN = 31
    # The socket
    RAW_SOCKET = 32
    MPTCP_SOCKET = 33
    PROTOCOL_NOT_JUDGED = 34
    ICMP_NOT_ALLOWED = 35
    SOCKET_OPTION = 36
    FOREIGN_SOCKET = 37
    # The workload's limits
    LIMIT_BYTES = 38
    LIMIT_CONNECTIONS = 39
    LIMIT_DESTINATIONS = 40
    UNDECLARED = 41
    ENDS_SOON = 42
    CHANGED = 43
    PACKET_SOCKET = 44
    # The packet
    UNVERIFIED_DATA = 48
    FRAGMENT = 49
    IP_OPTIONS_PRESENT = 50
    EXTENSION_HEADER = 51
    URGENT_DATA = 52
    MALFORMED_PACKET = 53
    PACKET_PROTOCOL = 54
    LOOPBACK_DEVICE = 55
    # The frame of a guest behind an interface
    LINK_PROTOCOL = 56
    SPOOFED = 57
    NEIGHBOUR = 58
    NO_FLOW = 59
    OUT_OF_ORDER = 60
    TCP_OPTION = 61
    DIFFERING_COPY = 62
    BAD_CHECKSUM = 63
    # The ClientHello
    NOT_TLS = 64
    SSLV2_HELLO = 65
    TLS_VERSION = 66
    HELLO_TOO_LONG = 67
    HELLO_TOO_MANY_RECORDS = 68
    HELLO_INTERLEAVED = 69
    HELLO_EMPTY_RECORD = 70
    HELLO_MALFORMED = 71
    HELLO_TRAILING_BYTES = 72
    EXTENSION_DUPLICATE = 73
    EXTENSIONS_TOO_MANY = 74
    ECH = 75
    SNI_MISSING = 76
    SNI_SEVERAL = 77
    SNI_NOT_HOST_NAME = 78
    SNI_MALFORMED = 79
    SNI_BAD_CHARACTER = 80
    SNI_BAD_LABEL = 81
    SNI_TOO_LONG = 82
    SNI_ADDRESS = 83
    NAME_NOT_ALLOWED = 84
    NAME_CHANGED = 85
    NAME_NOT_RESOLVED = 86
    NAME_ELSEWHERE = 87
    DOH_HOST = 88
    # exeat itself
    NO_POLICY = 96
    STAMP_MISSING = 97
    TABLE_FULL = 98
    HELPER_FAILED = 99
    BUSY = 100
    NO_GATE = 101
    # The question that the gate was asked
    QUERY_TYPE = 112
    QUERY_MALFORMED = 113
    ADDRESS_WITHHELD = 114
    TUNNEL = 115
    UPSTREAM_FAILED = 116
    GRANT_EVICTED = 117
    QUERY_FLOOD = 118

    @property
    def word(self) -> str:
        """The word in JSON, on the terminal and in metrics."""
        return self.name.lower()
