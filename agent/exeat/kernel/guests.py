"""What agent and programs tell each other about guests: the tables of interfaces, addresses and what was learnt."""

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.guest_abi import (
    GUEST_ASKED,
    GUEST_FLOWS,
    GUEST_HOLDS,
    INTERFACE_BIT,
    OWNER_GATEWAY,
    OWNER_GUEST,
    AddressKey,
    AddressOwner,
    AskedKey,
    FlowKey,
    Guest,
    Interface,
)
from exeat.kernel.instance import Instance
from exeat.model.networks import MAPPED_PREFIX

_V4_BITS_BEFORE = 96  # of ::ffff:0.0.0.0/96
_ON_HOST = 0  # the index under which an address is one guest's
_ONLY_NEW = 1  # BPF_NOEXIST: a program may have let another guest learn it meanwhile
_ID = struct.Struct("=Q")
_PLACE = struct.Struct("=QIxxxx")
_ADDRESS_KEY = struct.Struct("=I16s")
_OWNER = struct.Struct("=IBBxx")


@dataclass(frozen=True, slots=True)
class _Places:
    """A map of a guest's n-th things, and those in which the things are."""

    map: str
    lead_to: tuple[str, ...]
    key_bytes: int


_FLOWS = _Places("flow_places", ("flows",), ctypes.sizeof(FlowKey))
_ASKED = _Places("asked_places", ("asked",), ctypes.sizeof(AskedKey))


@dataclass(frozen=True, slots=True)
class GuestPlace:
    """What the programs are told of one interface. Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d."""

    network: int  # cookie of the network namespace where its gate listens
    gate: tuple[bytes, ...]
    guest_mac: bytes | None  # None: learnt from its first frame
    gateway_macs: tuple[bytes, ...]  # one or two
    addresses: tuple[bytes, ...]  # the guest's; empty: learnt
    gateways: tuple[bytes, ...]  # whom it may look for on its link
    learn: tuple[IPv4Network | IPv6Network, ...]  # where it may take addresses; one of each family
    allows_dhcp: bool


@dataclass(slots=True)
class Learnt:
    """What the programs learnt of a guest."""

    mac: bytes | None
    addresses: tuple[bytes, ...]


class AddressTaken(KernelError):
    """An address is another guest's already. `index` is that of the interface which it is behind."""

    def __init__(self, address: bytes, index: int, name: str = "") -> None:
        super().__init__(
            f"{_ip(address)} is the address of another guest, behind {name or f'the interface {index}'}: "
            "no two may have the same"
        )
        self.address = address
        self.index = index


class GuestTables:
    """The tables of guests in one instance; one writer. A guest is the workload INTERFACE_BIT | index."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._told: dict[int, dict[bytes, int]] | None = None  # by index: addresses that we wrote, and their owner kind

    def put(self, index: int, place: GuestPlace) -> None:
        """Says what holds of an interface; what its guest has learnt and may still have stays.

        Raises AddressTaken, and changes nothing, where one of the addresses is another guest's.
        """
        wanted = dict.fromkeys(place.gateways, OWNER_GATEWAY) | dict.fromkeys(place.addresses, OWNER_GUEST)
        told = self._all_told().setdefault(index, {})
        self._take(index, [one for one, kind in wanted.items() if kind == OWNER_GUEST and told.get(one) != kind])
        for address, kind in wanted.items():
            if told.get(address) != kind:
                self._write_address(index, index, address, kind)
                if told.get(address) == OWNER_GUEST:
                    self._give_back(index, address)
                told[address] = kind
        guest = self._guest(index)
        if guest is None:
            libbpf.update(self._instance.map("guests"), _key(index), bytes(ctypes.sizeof(Guest)))
        libbpf.update(self._instance.map("interfaces"), _key(index), bytes(_interface(place)))
        # Only now: until this moment programs would have learnt again what is taken away.
        for address in [one for one in told if one not in wanted]:
            self._remove_address(index, address, told.pop(address))
        if guest and (guest.learnt_v4 or guest.learnt_v6):
            self._unlearn(index, guest, place)

    def forget(self, index: int) -> None:
        """Removes all that is known of a guest; the programs deny from the first step on."""
        libbpf.delete(self._instance.map("interfaces"), _key(index))
        guest = self._guest(index)
        if guest:
            for places, count in (
                (_FLOWS, min(guest.flows, GUEST_FLOWS)),
                (_ASKED, min(guest.asked, GUEST_ASKED)),
            ):
                self._remove_places(index, places, count)
            self._remove_holds(index)
            if guest.learnt_v4 or guest.learnt_v6 or guest.learnt_local:
                for address in self._learnt_addresses(index):
                    self._remove_address(index, address, OWNER_GUEST)
        for address, kind in self._all_told().pop(index, {}).items():
            self._remove_address(index, address, kind)
        libbpf.delete(self._instance.map("guests"), _key(index))

    def known(self) -> set[int]:
        """Every index of which anything is known, also where its removal was interrupted."""
        return {
            int(_ID.unpack(key)[0]) & ~INTERFACE_BIT
            for name in ("interfaces", "guests")
            for key in libbpf.keys(self._instance.map(name), _ID.size)
        }

    def learnt(self, index: int) -> Learnt:
        """What the guest has taken for its own so far."""
        guest = self._guest(index)
        if guest is None:
            return Learnt(None, ())
        has_addresses = guest.learnt_v4 or guest.learnt_v6 or guest.learnt_local
        return _learnt(guest, self._learnt_addresses(index) if has_addresses else [])

    def learnt_all(self) -> dict[int, Learnt]:
        """The same of every guest, by index, at the price of one."""
        addresses: dict[int, list[bytes]] = {}
        for index, address, _, is_learnt in self._owned():
            if is_learnt and index != _ON_HOST:
                addresses.setdefault(index, []).append(address)
        found = {}
        for key, value in libbpf.entries(self._instance.map("guests"), _ID.size, ctypes.sizeof(Guest)):
            index = int(_ID.unpack(key)[0]) & ~INTERFACE_BIT
            found[index] = _learnt(Guest.from_buffer_copy(value), addresses.get(index, []))
        return found

    def use(self) -> dict[str, int]:
        """How many entries tables have, by name. Of flows, how many places guests have taken: no fewer."""
        sizes = _ID.size, ctypes.sizeof(Guest)
        flows = [Guest.from_buffer_copy(raw).flows for _, raw in libbpf.entries(self._instance.map("guests"), *sizes)]
        holds = libbpf.entries(self._instance.map("hold_places"), _PLACE.size, ctypes.sizeof(FlowKey))
        return {
            "interfaces": len(flows),
            "flows": sum(min(one, GUEST_FLOWS) for one in flows),
            "holds": sum(1 for _ in holds),
        }

    def _take(self, index: int, addresses: list[bytes]) -> None:
        """Has addresses be this guest's on the host, all or none."""
        taken: list[bytes] = []
        for address in addresses:
            if _is_local(address):
                continue  # another link may have the same
            owner = self._owner(_ON_HOST, address)
            if owner is None:
                taken.append(address)
            elif owner[0] != index:
                for one in taken:
                    self._give_back(index, one)
                raise AddressTaken(address, owner[0])
            self._write_address(_ON_HOST, index, address, OWNER_GUEST, 0 if owner else _ONLY_NEW)

    def _unlearn(self, index: int, guest: Guest, place: GuestPlace) -> None:
        """Takes back what the guest may no more have, and lets it learn where it has nothing any more."""
        kept_v4 = kept_v6 = 0
        for address in self._learnt_addresses(index):
            if _is_local(address):
                continue
            if not _is_within(address, place.learn):
                self._remove_address(index, address, OWNER_GUEST)
            elif address.startswith(MAPPED_PREFIX):
                kept_v4 += 1
            else:
                kept_v6 += 1
        if (kept_v4, kept_v6) != (guest.learnt_v4, guest.learnt_v6):
            guest.learnt_v4, guest.learnt_v6 = kept_v4, kept_v6
            libbpf.update(self._instance.map("guests"), _key(index), bytes(guest))

    def _learnt_addresses(self, index: int) -> list[bytes]:
        return [address for at, address, _, is_learnt in self._owned() if at == index and is_learnt]

    def _all_told(self) -> dict[int, dict[bytes, int]]:
        """Read once from the kernel: an agent before this one may have written them."""
        if self._told is None:
            self._told = {}
            for index, address, kind, is_learnt in self._owned():
                if index != _ON_HOST and not is_learnt:
                    self._told.setdefault(index, {})[address] = kind
        return self._told

    def _owned(self) -> Iterator[tuple[int, bytes, int, int]]:
        sizes = ctypes.sizeof(AddressKey), ctypes.sizeof(AddressOwner)
        for key, value in libbpf.entries(self._instance.map("addresses"), *sizes):
            _, kind, is_learnt = _OWNER.unpack(value)
            yield *_ADDRESS_KEY.unpack(key), kind, is_learnt

    def _owner(self, index: int, address: bytes) -> tuple[int, int, int] | None:
        key = _ADDRESS_KEY.pack(index, address)
        raw = libbpf.lookup(self._instance.map("addresses"), key, _OWNER.size)
        return _OWNER.unpack(raw) if raw else None

    def _write_address(self, at: int, index: int, address: bytes, kind: int, flags: int = 0) -> None:
        key, value = _ADDRESS_KEY.pack(at, address), _OWNER.pack(index, kind, 0)
        libbpf.update(self._instance.map("addresses"), key, value, flags)

    def _remove_address(self, index: int, address: bytes, kind: int) -> None:
        libbpf.delete(self._instance.map("addresses"), _ADDRESS_KEY.pack(index, address))
        if kind == OWNER_GUEST:
            self._give_back(index, address)

    def _give_back(self, index: int, address: bytes) -> None:
        owner = self._owner(_ON_HOST, address)
        if owner and owner[0] == index:
            libbpf.delete(self._instance.map("addresses"), _ADDRESS_KEY.pack(_ON_HOST, address))

    def _guest(self, index: int) -> Guest | None:
        raw = libbpf.lookup(self._instance.map("guests"), _key(index), ctypes.sizeof(Guest))
        return Guest.from_buffer_copy(raw) if raw else None

    def _remove_holds(self, index: int) -> None:
        for place in range(GUEST_HOLDS):
            key = _PLACE.pack(INTERFACE_BIT | index, place)
            libbpf.delete(self._instance.map("hold_places"), key)
            libbpf.delete(self._instance.map("holds"), key)

    def _remove_places(self, index: int, places: _Places, count: int) -> None:
        if count == 0:
            return
        fd, maps = self._instance.map(places.map), [self._instance.map(name) for name in places.lead_to]
        for place in range(count):
            key = _PLACE.pack(INTERFACE_BIT | index, place)
            thing = libbpf.lookup(fd, key, places.key_bytes)
            if thing:
                for one in maps:
                    libbpf.delete(one, thing)
                libbpf.delete(fd, key)


def _learnt(guest: Guest, addresses: list[bytes]) -> Learnt:
    return Learnt(bytes(guest.mac) if guest.has_mac else None, tuple(sorted(addresses)))


def _key(index: int) -> bytes:
    return _ID.pack(INTERFACE_BIT | index)


def _interface(place: GuestPlace) -> Interface:
    said = Interface(network=place.network, learns_mac=place.guest_mac is None, allows_dhcp=place.allows_dhcp)
    for address in place.gate:
        (said.gate_v4 if address.startswith(MAPPED_PREFIX) else said.gate_v6)[:] = address
    for network in place.learn:
        if network.version == 4:
            said.learn_v4[:] = MAPPED_PREFIX + network.network_address.packed
            said.learn_v4_bits = _V4_BITS_BEFORE + network.prefixlen
        else:
            said.learn_v6[:] = network.network_address.packed
            said.learn_v6_bits = network.prefixlen
    if place.guest_mac is not None:
        said.guest_mac[:] = place.guest_mac
    said.gateway_mac[:] = place.gateway_macs[0]
    if len(place.gateway_macs) > 1:
        said.gateway_mac2[:] = place.gateway_macs[1]
    return said


def _is_local(address: bytes) -> bool:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80  # fe80::/10


def _ip(address: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(address[12:]) if address.startswith(MAPPED_PREFIX) else IPv6Address(address)


def _is_within(address: bytes, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(_ip(address) in network for network in networks)
