"""Networks: which rules cover an address, as prefixes of which the kernel finds only the longest.

All prefixes that matter (networks, exceptions, special ranges) are walked in order, with those that enclose the
current one on a stack, and each takes over what its encloser says:

    1.0.0.0/8           rule 1                   -> rule 1
      1.2.0.0/16        rule 2                   -> rules 1 and 2
        1.2.3.0/24      excepted from rule 1     -> rule 2
    0.0.0.0/0           rule 3                   -> rule 3
      10.0.0.0/8        special                  -> nothing: the wider network stops here
        10.1.0.0/16     rule 4                   -> rule 4
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from exeat.core.compile_ports import PortSets, RulesByTerms
from exeat.core.compile_rules import RankedRules
from exeat.model.networks import SPECIAL_NETWORKS, Network, mapped_prefix
from exeat.model.tables import NetworkEntry

_ADDRESS_BITS = 128
_Prefix = tuple[int, int]  # first address, length: sorted, an encloser comes right before all that it encloses


@dataclass(frozen=True, slots=True)
class _Place:
    """A prefix on the stack, and what holds for the addresses in it that no longer prefix takes."""

    last_address: int
    rules: RulesByTerms
    excepted: int  # the rules with an exception around this place: no network in here brings them back
    ports_id: int


_EVERYWHERE = _Place(last_address=2**_ADDRESS_BITS - 1, rules={}, excepted=0, ports_id=0)


def compile_networks(rules: RankedRules, port_sets: PortSets) -> Iterator[NetworkEntry]:
    """The entries that differ from what encloses them, in the order of addresses."""
    networks: defaultdict[_Prefix, set[int]] = defaultdict(set)
    exceptions: defaultdict[_Prefix, set[int]] = defaultdict(set)
    for rank, ranked in enumerate(rules.ranked):
        for network in ranked.rule.cidrs:
            networks[_prefix(network)].add(rank)
        for network in ranked.rule.excepts:
            exceptions[_prefix(network)].add(rank)

    stack = [_EVERYWHERE]
    for prefix in sorted(networks.keys() | exceptions.keys() | _SPECIAL):
        address, prefix_len = prefix
        while stack[-1].last_address < address:
            stack.pop()
        around = stack[-1]
        excepted = around.excepted
        # A rule that covers the special range from further out ends here; one with this very network begins below.
        covering = {} if prefix in _SPECIAL else dict(around.rules)
        for rank in exceptions.get(prefix, ()):
            excepted |= 1 << rank
            _leave_out(covering, port_sets.terms_of[rank], 1 << rank)
        for rank in networks.get(prefix, ()):
            terms, bit = port_sets.terms_of[rank], 1 << rank
            if not excepted & bit:
                covering[terms] = covering.get(terms, 0) | bit
        ports_id = port_sets.id_of(covering)
        stack.append(_Place(address | (1 << _ADDRESS_BITS - prefix_len) - 1, covering, excepted, ports_id))
        if ports_id != around.ports_id:
            yield NetworkEntry(address.to_bytes(16, "big"), prefix_len, ports_id)


def _leave_out(covering: dict[int, int], terms: int, bit: int) -> None:
    left = covering.get(terms, 0) & ~bit
    if left:
        covering[terms] = left
    else:
        covering.pop(terms, None)


def _prefix(network: Network) -> _Prefix:
    address, prefix_len = mapped_prefix(network)
    return int.from_bytes(address, "big"), prefix_len


_SPECIAL = frozenset(_prefix(network) for _, network in SPECIAL_NETWORKS)
