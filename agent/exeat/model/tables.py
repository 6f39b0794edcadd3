"""A table set: a policy compiled to kernel entries, with ids counted from 0. Immutable; loaded under fresh ids.

Times are wall-clock nanoseconds since 1970, NEVER where nothing ends. Rules are numbered from 1 in policy order.
Twins: struct network, port, host, policy in bpf/abi.h.
"""

from dataclasses import dataclass
from typing import NamedTuple

from exeat.model.policy import Limits, Mode

NEVER = 2**64 - 1
NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class NetworkEntry:
    """Longest prefix wins: `ports_id` holds the union of every rule that covers these addresses; 0: denied here."""

    address: bytes  # 16 bytes, IPv4 as ::ffff:a.b.c.d
    prefix_len: int  # 0..128
    ports_id: int


@dataclass(frozen=True, slots=True)
class PortEntry:
    """A prefix of ports in one set of ports. Open wins over named: who may talk freely is not asked for a name."""

    ports_id: int
    protocol: int  # IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP (which also stands for ICMPv6; port 0)
    port: int
    prefix_len: int  # 0..16
    open_until: int = 0  # 0: no rule allows without a name
    open_rule: int = 0
    named_until: int = 0  # 0: no tls rule
    named_rule: int = 0
    named_ech_until: int = 0  # of a name that was granted; the others have it in their HostSlot
    names_id: int = 0  # 0: only a granted name passes


class HostSlot(NamedTuple):  # like HostEntry: a policy has thousands, and a dataclass takes three times as long to make
    """Until when, and by which rule, a name passes, or may be resolved where it is in set 0."""

    until: int = 0  # 0: no rule
    ech_until: int = 0  # 0: no rule with `ech: allow`
    rule: int = 0
    ports_id: int = 0  # of set 0: what an address may be used for once this name was resolved to it; 0: for nothing


class HostEntry(NamedTuple):
    """One key of the trie of reversed names: an exact name, or the suffix below which names are allowed.

    The key of `api.example.com` is `moc.elpmaxe.ipa` and a NUL; of `*.example.com` and `**.example.com` it is
    `moc.elpmaxe.`. A suffix carries what wider suffixes allow too, because only the longest key is found.
    """

    names_id: int
    reversed_name: bytes
    is_exact: bool
    dots: int  # in reversed_name; a name with as many dots has exactly one label more than the suffix
    one: HostSlot  # an exact name, or one label below the suffix
    many: HostSlot  # two labels or more below the suffix
    is_doh: bool = False  # a resolver over HTTPS that no rule names exactly: denied, whatever wildcard covers it


@dataclass(frozen=True, slots=True)
class TableSet:
    """All that the kernel needs to know of one policy."""

    policy_name: str
    rule_names: tuple[str, ...]  # rule 1 is rule_names[0]
    mode: Mode
    until: int  # when the whole policy ends
    allows_icmp: bool
    ids: int  # how many ids are used: the policy itself is 0, sets of ports and names follow
    has_hosts: bool  # whether a rule opens addresses to granted names; set 0 also holds names beside networks
    networks: tuple[NetworkEntry, ...]
    ports: tuple[PortEntry, ...]
    hosts: tuple[HostEntry, ...]
    limits: Limits = NO_LIMITS
    quarantines_undeclared: bool = False
