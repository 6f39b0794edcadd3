"""What is told of guests in the kernel's tables: written, kept, given back, forgotten."""

import ctypes
import itertools
import os
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest

from e2e.guest_stub import place, stub
from exeat.kernel import guest_hooks, libbpf
from exeat.kernel.abi import REASONS
from exeat.kernel.guest_abi import (
    GUEST_ASKED,
    GUEST_FLOWS,
    INTERFACE_BIT,
    OWNER_GATEWAY,
    OWNER_GUEST,
    AddressKey,
    AddressOwner,
    Asked,
    AskedKey,
    FlowKey,
    Guest,
    GuestFlow,
    Interface,
    PlaceKey,
)
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.guests import AddressTaken, GuestTables, Learnt
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.tables import Tables
from exeat.model.networks import mapped
from exeat.model.verdicts import Reason, Verdict

_INDEXES = itertools.count(1000)
HOLD_BYTES = 16 + 16384 + 1024  # struct hold, which the agent does not read
LEARN = (IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8::/64"))


def end(text: str) -> bytes:
    """An address as the kernel's tables have it."""
    return mapped(ip_address(text))


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """The tables, with nothing attached."""
    if os.geteuid() != 0:
        pytest.skip("the kernel's tables are root's")
    made = Instance(f"tables-{os.getpid()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest_hooks, "guest_text", stub)
        try:
            GuestHooks(made).load()
            yield made
        finally:
            made.close()
            remove_instance(made.name)


@pytest.fixture
def tables(instance: Instance) -> Iterator[GuestTables]:
    """Empty before and after."""
    made = GuestTables(instance)
    yield made
    for index in made.known():
        made.forget(index)
    assert owned(instance) == {}


@pytest.fixture
def index() -> int:
    """Of an interface that nobody else has."""
    return next(_INDEXES)


def owned(instance: Instance) -> dict[tuple[int, str], tuple[int, int, int]]:
    """Every address by index: whose it is, as what, and whether it was learnt."""
    found = {}
    sizes = ctypes.sizeof(AddressKey), ctypes.sizeof(AddressOwner)
    for key, value in libbpf.entries(instance.map("addresses"), *sizes):
        address, owner = AddressKey.from_buffer_copy(key), AddressOwner.from_buffer_copy(value)
        text = IPv6Address(bytes(address.address))
        found[address.index, str(text.ipv4_mapped or text)] = (owner.index, owner.kind, owner.is_learnt)
    return found


def interface(instance: Instance, index: int) -> Interface | None:
    """What the programs are told."""
    raw = libbpf.lookup(instance.map("interfaces"), key(index), ctypes.sizeof(Interface))
    return Interface.from_buffer_copy(raw) if raw else None


def key(index: int) -> bytes:
    """Of an interface's workload."""
    return (INTERFACE_BIT | index).to_bytes(8, "little")


def guest(instance: Instance, index: int) -> Guest:
    """What the programs keep."""
    raw = libbpf.lookup(instance.map("guests"), key(index), ctypes.sizeof(Guest))
    assert raw
    return Guest.from_buffer_copy(raw)


def learn(instance: Instance, index: int, *addresses: str, mac: bytes | None = None, **counts: int) -> None:
    """What the programs write when a guest takes an address."""
    known = guest(instance, index)
    for text in addresses:
        local = IPv6Address(end(text)).is_link_local
        for at in (index,) if local else (0, index):
            owner = AddressOwner(index=index, kind=OWNER_GUEST, is_learnt=1)
            wanted = AddressKey(index=at)
            wanted.address[:] = end(text)
            libbpf.update(instance.map("addresses"), bytes(wanted), bytes(owner), 1)
        field = "learnt_local" if local else "learnt_v6" if ":" in text else "learnt_v4"
        setattr(known, field, getattr(known, field) + 1)
    for field, count in counts.items():
        setattr(known, field, count)
    if mac:
        known.mac[:], known.has_mac = mac, 1
    libbpf.update(instance.map("guests"), key(index), bytes(known))


def test_what_is_told_stands_in_the_tables(instance: Instance, tables: GuestTables, index: int) -> None:
    """Every field, as the programs read it."""
    tables.put(
        index,
        place(
            network=42,
            gate=(end("203.0.113.1"), end("2001:db8::53")),
            guest_mac=bytes(range(6)),
            gateway_macs=(b"\x02" * 6, b"\x04" * 6),
            addresses=(end("198.51.100.2"),),
            gateways=(end("198.51.100.1"), end("fe80::1")),
            learn=LEARN,
            allows_dhcp=False,
        ),
    )
    said = interface(instance, index)
    assert said
    assert (said.network, said.learns_mac, said.allows_dhcp) == (42, 0, 0)
    assert (bytes(said.gate_v4), bytes(said.gate_v6)) == (end("203.0.113.1"), end("2001:db8::53"))
    assert (bytes(said.learn_v4), said.learn_v4_bits) == (end("198.51.100.0"), 120)
    assert (bytes(said.learn_v6), said.learn_v6_bits) == (end("2001:db8::"), 64)
    assert bytes(said.guest_mac) == bytes(range(6))
    assert (bytes(said.gateway_mac), bytes(said.gateway_mac2)) == (b"\x02" * 6, b"\x04" * 6)
    assert owned(instance) == {
        (0, "198.51.100.2"): (index, OWNER_GUEST, 0),
        (index, "198.51.100.2"): (index, OWNER_GUEST, 0),
        (index, "198.51.100.1"): (index, OWNER_GATEWAY, 0),
        (index, "fe80::1"): (index, OWNER_GATEWAY, 0),
    }
    assert bytes(guest(instance, index)) == bytes(ctypes.sizeof(Guest))
    assert tables.known() == {index}


def test_a_second_telling_takes_back_what_is_no_more_and_keeps_what_was_learnt(
    instance: Instance, tables: GuestTables, index: int
) -> None:
    """By an agent, too, that has not told the first itself."""
    tables.put(index, place(gateways=(end("198.51.100.1"), end("fe80::1")), learn=LEARN))
    learn(instance, index, "198.51.100.7", "2001:db8::7", "fe80::7", mac=b"\x02" * 6)
    again = GuestTables(instance)
    again.put(index, place(gateways=(end("198.51.100.254"), end("fe80::1")), learn=LEARN))
    assert (index, "198.51.100.1") not in owned(instance)
    assert owned(instance)[index, "198.51.100.254"] == (index, OWNER_GATEWAY, 0)
    learnt = again.learnt(index)
    assert learnt.mac == b"\x02" * 6
    assert set(learnt.addresses) == {end("198.51.100.7"), end("2001:db8::7"), end("fe80::7")}
    tables.forget(index)
    again.forget(index)


def test_an_address_that_is_told_takes_the_place_of_one_that_was_learnt(
    instance: Instance, tables: GuestTables, index: int
) -> None:
    """A registration comes late: what the guest took before is its own no more; later it may learn again."""
    tables.put(index, place(learn=LEARN))
    learn(instance, index, "198.51.100.7", "2001:db8::7", "fe80::7")
    tables.put(index, place(addresses=(end("198.51.100.2"),), learn=LEARN[1:]))
    assert set(tables.learnt(index).addresses) == {end("2001:db8::7"), end("fe80::7")}
    assert (0, "198.51.100.7") not in owned(instance)
    assert (0, "2001:db8::7") in owned(instance)
    assert (guest(instance, index).learnt_v4, guest(instance, index).learnt_v6) == (0, 1)
    tables.put(index, place(learn=LEARN))
    assert (0, "198.51.100.2") not in owned(instance)
    assert guest(instance, index).learnt_v4 == 0


def test_a_learnt_address_may_be_told_afterwards(instance: Instance, tables: GuestTables, index: int) -> None:
    """The same one: it is fixed then, and goes when it is told no more."""
    tables.put(index, place(learn=LEARN))
    learn(instance, index, "198.51.100.7")
    tables.put(index, place(addresses=(end("198.51.100.7"),), learn=LEARN[1:]))
    assert owned(instance)[index, "198.51.100.7"] == (index, OWNER_GUEST, 0)
    assert guest(instance, index).learnt_v4 == 0
    tables.put(index, place(learn=LEARN))
    assert owned(instance) == {}


def test_two_guests_cannot_have_the_same_address(instance: Instance, tables: GuestTables, index: int) -> None:
    """Told or learnt: who comes second is refused, and nothing of it stays; link-local ones are no matter."""
    other = next(_INDEXES)
    tables.put(index, place(addresses=(end("198.51.100.2"), end("fe80::2")), learn=LEARN[1:]))
    learn(instance, index, "2001:db8::2")
    before = owned(instance)
    for taken in ("198.51.100.2", "2001:db8::2"):
        with pytest.raises(AddressTaken, match=rf"{taken} .*another guest, behind the interface {index}") as refusal:
            tables.put(other, place(addresses=(end("198.51.100.3"), end(taken))))
        assert (refusal.value.index, refusal.value.address) == (index, end(taken))
        assert owned(instance) == before
        assert interface(instance, other) is None
    tables.put(other, place(addresses=(end("198.51.100.3"), end("fe80::2"))))
    tables.forget(index)
    tables.put(other, place(addresses=(end("198.51.100.2"),)))
    assert (0, "198.51.100.3") not in owned(instance)


def test_what_all_have_learnt_is_read_at_once(instance: Instance, tables: GuestTables, index: int) -> None:
    """As it is of each: nothing, some, what was told and not learnt."""
    others = [next(_INDEXES) for _ in range(3)]
    tables.put(index, place(learn=LEARN))
    tables.put(others[0], place(addresses=(end("198.51.100.9"),), gateways=(end("198.51.100.1"),), learn=LEARN[1:]))
    tables.put(others[1], place(learn=LEARN))
    learn(instance, index, "198.51.100.7", "fe80::7", mac=b"\x02" * 6)
    learn(instance, others[0], "2001:db8::7")
    found = tables.learnt_all()
    assert found == {one: tables.learnt(one) for one in (index, *others[:2])}
    assert found[index] == Learnt(b"\x02" * 6, (end("198.51.100.7"), end("fe80::7")))
    assert found[others[0]].addresses == (end("2001:db8::7"),)


def test_a_guest_that_is_forgotten_leaves_nothing(instance: Instance, tables: GuestTables, index: int) -> None:
    """Flows, holds, addresses; and another one's stay."""
    other = next(_INDEXES)
    for one, address in ((index, "198.51.100.7"), (other, "198.51.100.8")):
        tables.put(one, place(gateways=(end("198.51.100.1"),), learn=LEARN))
        learn(instance, one, address, "fe80::7", flows=3)
        add_flows(instance, one, 3)
    tables.forget(index)
    assert tables.known() == {other}
    assert interface(instance, index) is None
    assert {at for at, _ in owned(instance)} == {0, other}
    assert (count(instance, "flows", FlowKey), count(instance, "holds", PlaceKey)) == (3, 3)
    assert count(instance, "flow_places", PlaceKey) == 3
    assert tables.learnt(index).addresses == ()
    tables.forget(other)
    assert (count(instance, "flows", FlowKey), count(instance, "flow_places", PlaceKey)) == (0, 0)
    tables.forget(other)


def add_flows(instance: Instance, index: int, many: int) -> None:
    """With a hold each."""
    for number in range(many):
        flow = FlowKey(workload=INTERFACE_BIT | index, protocol=6)
        flow.guest_port[:] = number.to_bytes(2, "big")
        libbpf.update(instance.map("flows"), bytes(flow), bytes(ctypes.sizeof(GuestFlow)))
        at = PlaceKey(workload=INTERFACE_BIT | index, place=number)
        if number < 3:
            libbpf.update(instance.map("holds"), bytes(at), bytes(HOLD_BYTES))
            libbpf.update(instance.map("hold_places"), bytes(at), bytes(flow))
        libbpf.update(instance.map("flow_places"), bytes(at), bytes(flow))


def count(instance: Instance, name: str, key_type: type[ctypes.Structure]) -> int:
    """How many entries a table has."""
    return len(libbpf.keys(instance.map(name), ctypes.sizeof(key_type)))


def test_what_is_held_back_is_counted_by_reason_beside_verdicts_and_lost_events(instance: Instance) -> None:
    """Over all processors. It stands where verdicts would that there are none of."""
    fd, zero = instance.map("counters"), bytes(8 * libbpf.possible_cpus())
    found = Tables(instance)
    written = {0: 9, Reason.OUT_OF_ORDER: 5, Verdict.DROPPED * REASONS + Reason.SPOOFED: 4}
    for at, number in written.items():
        libbpf.update(fd, at.to_bytes(4, "little"), struct.pack("=Q", number) * libbpf.possible_cpus())
    try:
        cpus = libbpf.possible_cpus()
        assert found.held_back() == {Reason.OUT_OF_ORDER: 5 * cpus}
        assert found.lost_events() == 9 * cpus
        assert found.counters() == {(Verdict.DROPPED, Reason.SPOOFED): 4 * cpus}
    finally:
        for at in written:
            libbpf.update(fd, at.to_bytes(4, "little"), zero)


def test_how_full_the_tables_are_is_counted(instance: Instance, tables: GuestTables, index: int) -> None:
    """By guests; places for flows are counted by the programs, and go round."""
    other = next(_INDEXES)
    for one, flows in ((index, 5), (other, 2**31)):
        tables.put(one, place())
        add_flows(instance, one, 2)
        learn(instance, one, flows=flows)
    assert tables.use() == {"interfaces": 2, "flows": 5 + GUEST_FLOWS, "holds": 4}


def test_forgetting_takes_as_long_as_a_guest_had_flows(instance: Instance, tables: GuestTables, index: int) -> None:
    """One that had few is forgotten at once beside one that has all that there can be."""
    other = next(_INDEXES)
    for one, flows in ((index, 2), (other, GUEST_FLOWS)):
        tables.put(one, place())
        add_flows(instance, one, flows)
        learn(instance, one, flows=flows)
    began = time.perf_counter()
    tables.forget(index)
    few = time.perf_counter() - began
    tables.forget(other)
    many = time.perf_counter() - began - few
    assert count(instance, "flows", FlowKey) == 0
    assert few < 0.2 * many


def test_whom_a_guest_asked_goes_with_it(instance: Instance, tables: GuestTables, index: int) -> None:
    """Of guests that are still there it stays. The count goes round; the places do not grow with it."""
    other = next(_INDEXES)
    for one in (index, other):
        tables.put(one, place())
        for port in range(3):
            asked = AskedKey(workload=INTERFACE_BIT | one, protocol=17)
            asked.port[:] = port.to_bytes(2, "big")
            libbpf.update(instance.map("asked"), bytes(asked), bytes(ctypes.sizeof(Asked)))
            at = PlaceKey(workload=INTERFACE_BIT | one, place=port)
            libbpf.update(instance.map("asked_places"), bytes(at), bytes(asked))
        learn(instance, one, asked=GUEST_ASKED + 3)
    tables.forget(index)
    assert (count(instance, "asked", AskedKey), count(instance, "asked_places", PlaceKey)) == (3, 3)
    tables.forget(other)
    assert (count(instance, "asked", AskedKey), count(instance, "asked_places", PlaceKey)) == (0, 0)


def test_entries_are_read_many_at_a_time(instance: Instance, tables: GuestTables, index: int) -> None:
    """More than one call's worth: each once, with its own value."""
    many = range(5000)
    fd = instance.map("addresses")
    for number in many:
        wanted = AddressKey(index=index)
        wanted.address[:] = number.to_bytes(16, "big")
        libbpf.update(fd, bytes(wanted), bytes(AddressOwner(index=number)))
    sizes = ctypes.sizeof(AddressKey), ctypes.sizeof(AddressOwner)
    found = [(raw, AddressOwner.from_buffer_copy(value).index) for raw, value in libbpf.entries(fd, *sizes)]
    assert sorted(number for _, number in found) == list(many)
    assert all(int.from_bytes(raw[4:], "big") == number for raw, number in found)
    for raw, _ in found:
        libbpf.delete(fd, raw)
