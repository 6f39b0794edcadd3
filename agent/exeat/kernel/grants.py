"""Writes grants and gates where the programs find them, and reads who uses an address and who asks a question."""

import ctypes
import struct
from dataclasses import dataclass

from exeat.core.grants import Change, Slot
from exeat.kernel import libbpf
from exeat.kernel.entries import (
    GRANT_SLOTS,
    Asker,
    AskerKey,
    Gate,
    GateKey,
    Granted,
)
from exeat.kernel.guest_abi import Asked
from exeat.kernel.instance import Instance
from exeat.kernel.telling import address_of
from exeat.model.networks import Address, mapped
from exeat.model.record import Process

_GRANTED_KEY = struct.Struct("<I16s")
_GRANT_KEY = struct.Struct("<16sI4x252s")
_GRANT = struct.Struct("<QI4x")
_SLOT = struct.Struct("<QI4x")
_USED = struct.Struct("<Q")
_ASKED_KEY = struct.Struct("<Q16s2sB5x")  # struct asked_key of guest_abi.h
_NOBODY = Process(0, "", 0)


@dataclass(frozen=True, slots=True)
class Asking:
    """Who put a question, and whom it meant to ask."""

    process: Process
    server: Address | None


class GrantTables:
    """The grants of one policy in one instance. Writers must be one at a time."""

    def __init__(self, instance: Instance, policy_id: int) -> None:
        self._grants = instance.map("grants")
        self._granted = instance.map("granted")
        self._policy_id = policy_id

    def apply(self, change: Change) -> None:
        """A name's grant is there before its address is opened, and goes after it was closed."""
        for name, address, ports_id, until_ns in change.grants:
            libbpf.update(self._grants, self._grant_key(name, address), _GRANT.pack(until_ns, self._own(ports_id)))
        for address, slots in change.granted:
            used = _USED.pack(self.used(address))
            libbpf.update(self._granted, self._granted_key(address), used + self._packed(slots))
        for address in change.gone_granted:
            libbpf.delete(self._granted, self._granted_key(address))
        for name, address in change.gone_grants:
            libbpf.delete(self._grants, self._grant_key(name, address))

    def used(self, address: bytes) -> int:
        """When a connection last used an address; 0: never."""
        raw = libbpf.lookup(self._granted, self._granted_key(address), ctypes.sizeof(Granted))
        return int(_USED.unpack_from(raw)[0]) if raw else 0

    def _packed(self, slots: tuple[Slot, ...]) -> bytes:
        packed = b"".join(_SLOT.pack(slot.until_ns, self._own(slot.ports_id)) for slot in slots)
        return packed.ljust(GRANT_SLOTS * _SLOT.size, b"\0")

    def _own(self, ports_id: int) -> int:
        return ports_id and self._policy_id + ports_id

    def _granted_key(self, address: bytes) -> bytes:
        return _GRANTED_KEY.pack(self._policy_id, address)

    def _grant_key(self, name: str, address: bytes) -> bytes:
        return _GRANT_KEY.pack(address, self._policy_id, name.encode("ascii")[::-1])


class GateTables:
    """Where the gate of a workload listens."""

    def __init__(self, instance: Instance, workload: int) -> None:
        self._instance = instance
        self._gates = instance.map("gates")
        self._askers = instance.map("askers")
        self._workload = workload

    def open(self, network: int, port: int) -> None:
        """From now on questions from this network namespace go to this port of its loopback; a guest's, of its gate."""
        gate = Gate()
        gate.port[:] = port.to_bytes(2, "big")
        libbpf.update(self._gates, bytes(GateKey(self._workload, network)), bytes(gate))

    def port(self, network: int) -> int:
        """Where they go now; 0: nowhere."""
        raw = libbpf.lookup(self._gates, bytes(GateKey(self._workload, network)), ctypes.sizeof(Gate))
        return int.from_bytes(Gate.from_buffer_copy(raw).port, "big") if raw else 0

    def close(self, network: int) -> None:
        """From now on they are denied."""
        libbpf.delete(self._gates, bytes(GateKey(self._workload, network)))

    def asking(self, protocol: int, port: int) -> Asking | None:
        """Who asks from a port; None where too many asked since."""
        key = AskerKey(workload=self._workload, protocol=protocol)
        key.port[:] = port.to_bytes(2, "big")
        raw = libbpf.lookup(self._askers, bytes(key), ctypes.sizeof(Asker))
        if raw is None:
            return None
        asker = Asker.from_buffer_copy(raw)
        process = Process(asker.pid, asker.comm.decode(errors="replace"), asker.uid)
        return Asking(process, address_of(bytes(asker.address)))

    def guest_asking(self, protocol: int, address: Address, port: int) -> Asking | None:
        """Whom a guest meant to ask when the programs led its question to the gate; None: they led none from there."""
        key = _ASKED_KEY.pack(self._workload, mapped(address), port.to_bytes(2, "big"), protocol)
        raw = libbpf.lookup(self._instance.map("asked"), key, ctypes.sizeof(Asked))
        return Asking(_NOBODY, address_of(raw)) if raw else None
