"""Walks a table set as the kernel does: longest prefix of the address, of the port, of the reversed name.

A name that was resolved opens the ports of its slot in set 0. Twin: judge_flow and judge_name in bpf/judge.h.
"""

from typing import NamedTuple

from exeat.model.networks import Address, mapped
from exeat.model.tables import HostEntry, HostSlot, NetworkEntry, PortEntry, TableSet
from unit.naive_judge import DNS_PORTS, Granted


class TableJudgement(NamedTuple):
    """Whether it is allowed, whether a name had to be asked for, and the rule that allowed it (0: denied)."""

    is_allowed: bool
    needs_name: bool
    rule: int


_DENIED = TableJudgement(False, False, 0)
_UNNAMED = TableJudgement(False, True, 0)
_NO_PORT = PortEntry(0, 0, 0, 0)


def judge_by_tables(
    table_set: TableSet,
    protocol: int,
    address: Address,
    port: int,
    name: str | None,
    has_ech: bool,
    now_ns: int,
    granted: Granted | None = None,
) -> TableJudgement:
    """Judge one attempt by nothing but the tables, and by what the gate resolved."""
    if now_ns >= table_set.until or (port in DNS_PORTS and protocol != 1):
        return _DENIED
    port = 0 if protocol == 1 else port
    network = _network(table_set, mapped(address))
    listed = _port(table_set, network.ports_id, protocol, port) if network else _NO_PORT
    by_name = {
        one: _port(table_set, slot_of(table_set, 0, one).ports_id, protocol, port)
        for one, addresses in (granted or {}).items()
        if address in addresses
    }
    for found in (listed, *by_name.values()):
        if now_ns < found.open_until:
            return TableJudgement(True, False, found.open_rule)
    if all(now_ns >= found.named_until for found in (listed, *by_name.values())):
        return _DENIED
    if name is None:
        return _UNNAMED
    if now_ns < listed.named_until:
        slot = slot_of(table_set, listed.names_id, name)
        if now_ns < (min(slot.until, slot.ech_until) if has_ech else slot.until):
            return TableJudgement(True, True, slot.rule)
    found = by_name.get(name, _NO_PORT)
    if now_ns < (min(found.named_until, found.named_ech_until) if has_ech else found.named_until):
        return TableJudgement(True, True, found.named_rule)
    return _UNNAMED


def slot_of(table_set: TableSet, names_id: int, name: str) -> HostSlot:
    """What a set of names says of a name; an empty slot if nothing."""
    host = _host(table_set, names_id, name[::-1].encode() + b"\0")
    if host is None:
        return HostSlot()
    return host.one if host.is_exact or name.count(".") == host.dots else host.many


def has_prefix(key: bytes, prefix: bytes, bits: int) -> bool:
    """Whether the first bits are the same, as an LPM trie compares them."""
    shift = 8 * len(key) - bits
    return (int.from_bytes(key, "big") ^ int.from_bytes(prefix, "big")) >> shift == 0


def _network(table_set: TableSet, address: bytes) -> NetworkEntry | None:
    found = [entry for entry in table_set.networks if has_prefix(address, entry.address, entry.prefix_len)]
    return max(found, key=lambda entry: entry.prefix_len, default=None)


def _port(table_set: TableSet, ports_id: int, protocol: int, port: int) -> PortEntry:
    """Without one, an entry that allows nothing; no entry has the id 0."""
    found = [
        entry
        for entry in table_set.ports
        if (entry.ports_id, entry.protocol) == (ports_id, protocol)
        and has_prefix(port.to_bytes(2, "big"), entry.port.to_bytes(2, "big"), entry.prefix_len)
    ]
    return max(found, key=lambda entry: entry.prefix_len, default=_NO_PORT)


def _host(table_set: TableSet, names_id: int, key: bytes) -> HostEntry | None:
    found = [entry for entry in table_set.hosts if entry.names_id == names_id and key.startswith(entry.reversed_name)]
    return max(found, key=lambda entry: len(entry.reversed_name), default=None)
