"""With whom a guest talks: what else are sockets, with their stamps, are flows of an interface."""

import ctypes
import struct
import time
from collections.abc import Iterator

from exeat.kernel import libbpf
from exeat.kernel.guest_abi import GUEST_FLOWS, FlowKey, Guest, GuestFlow
from exeat.kernel.instance import Instance

_TCP = 6
_SENT_FIN, _RESET = 4, 16  # enum flow_flags of guest_abi.h
_PEER_FIN, _PEER_RESET = 1, 2  # enum peer_flags
_PLACE = struct.Struct("<QI4x")
_WORKLOAD = struct.Struct("<Q")
_QUIET_NS = 120 * 10**9  # two datagrams that are further apart are two conversations: RFC 4787 4.3


def peers_in_use(instance: Instance, workload: int) -> set[bytes]:
    """The addresses with which a guest has open connections, or exchanged datagrams lately."""
    now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)  # by which flows are timed, roughly
    return {bytes(key.peer) for key, flow in _flows(instance, workload) if _is_open(key, flow, now_ns)}


def _is_open(key: FlowKey, flow: GuestFlow, now_ns: int) -> bool:
    if key.protocol != _TCP:
        return bool(now_ns - flow.used_ns < _QUIET_NS)
    peer = flow.peer_end & 0xFFFFFFFF if flow.peer_end >> 32 == flow.first else 0
    is_reset = flow.flags & _RESET or peer & _PEER_RESET
    return not (is_reset or (flow.flags & _SENT_FIN and peer & _PEER_FIN))


def _flows(instance: Instance, workload: int) -> Iterator[tuple[FlowKey, GuestFlow]]:
    raw = libbpf.lookup(instance.map("guests"), _WORKLOAD.pack(workload), ctypes.sizeof(Guest))
    count = min(Guest.from_buffer_copy(raw).flows, GUEST_FLOWS) if raw else 0
    places, flows = instance.map("flow_places"), instance.map("flows")
    for place in range(count):
        key = libbpf.lookup(places, _PLACE.pack(workload, place), ctypes.sizeof(FlowKey))
        value = libbpf.lookup(flows, key, ctypes.sizeof(GuestFlow)) if key else None
        if key and value:
            yield FlowKey.from_buffer_copy(key), GuestFlow.from_buffer_copy(value)
