"""Sets of host names: the union of several rules' patterns as keys of one trie of reversed names.

The kernel finds only the longest key, so each key carries what every pattern says that covers its names: with
`**.example.com` and `*.api.example.com`, the key `moc.elpmaxe.ipa.` allows one label by either rule and more labels by
the first alone.

No wildcard covers a host that resolves names over HTTPS: beneath one, each such host gets a key of its own that allows
nothing, and what a rule names exactly gets only what these rules say.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator

from exeat.core.compile_rules import RankedRules
from exeat.core.doh_hosts import ancestors, known_doh_hosts
from exeat.model.names import PatternKind
from exeat.model.tables import HostEntry, HostSlot

_RESOLVABLE = 0  # the set of what the gate may resolve has the policy's own id
_NOTHING = HostSlot()

_SlotOf = Callable[[int], HostSlot]  # by the set of rules that allow


class NameSets:
    """Gives each distinct set of names one id, and collects the entries."""

    def __init__(self, rules: RankedRules, ids: Iterator[int]):
        self.entries: list[HostEntry] = []
        self._rules = rules
        self._ids = ids
        self._slots: dict[int, HostSlot] = {}
        self._id_by_rules: dict[int, int] = {0: 0}
        self._id_by_keys: dict[tuple[HostEntry, ...], int] = {}

    def id_of(self, rules: int) -> int:
        """The id of all that these tls rules name; 0 for no rules."""
        if rules not in self._id_by_rules:
            self._id_by_rules[rules] = self._intern(tuple(self._keys(rules, self._slot)))
        return self._id_by_rules[rules]

    def resolvable(self, ports_id_of: Callable[[int], int]) -> Iterator[HostEntry]:
        """Every name that the gate may resolve, with the id of what a set of gated rules then opens."""
        slots: dict[int, HostSlot] = {}

        def slot_of(rules: int) -> HostSlot:
            slot = slots.get(rules)
            if slot is None:
                slot = slots[rules] = self._slot(rules)._replace(ports_id=ports_id_of(rules & self._rules.gated))
            return slot

        yield from self._keys(self._rules.with_hosts, slot_of)

    def _intern(self, keys: tuple[HostEntry, ...]) -> int:
        names_id = self._id_by_keys.get(keys)
        if names_id is None:
            names_id = self._id_by_keys[keys] = next(self._ids)
            self.entries.extend(key._replace(names_id=names_id) for key in keys)
        return names_id

    def _keys(self, rules: int, slot_of: _SlotOf) -> Iterator[HostEntry]:
        """Of the set of what may be resolved; another set's are made of them."""
        by_kind: dict[PatternKind, defaultdict[str, int]] = {kind: defaultdict(int) for kind in PatternKind}
        for bit, rule in self._rules.members(rules):
            for host in rule.hosts:
                by_kind[host.kind][host.name] |= bit
        exact, one_label, any_labels = (by_kind[kind] for kind in PatternKind)
        doh_hosts = known_doh_hosts()

        for name in sorted(exact):
            allowing = exact[name]
            if not doh_hosts.covers(name):
                allowing |= one_label.get(name.partition(".")[2], 0)
                for ancestor in ancestors(name):
                    allowing |= any_labels.get(ancestor, 0)
            yield HostEntry(_RESOLVABLE, _reversed(name) + b"\0", True, name.count("."), slot_of(allowing), _NOTHING)

        closed_names: set[str] = set()
        closed_suffixes: set[str] = set()
        for suffix in sorted(one_label.keys() | any_labels.keys()):
            closing = doh_hosts.closing(suffix)
            if closing:
                closed_suffixes.add(closing)
                continue
            below = any_labels.get(suffix, 0)
            for ancestor in ancestors(suffix):
                below |= any_labels.get(ancestor, 0)
            one = slot_of(one_label.get(suffix, 0) | below)
            yield HostEntry(_RESOLVABLE, _reversed(suffix) + b".", False, suffix.count(".") + 1, one, slot_of(below))
            if below:
                closed_names.update(doh_hosts.names_below(suffix))
                closed_suffixes.update(doh_hosts.suffixes_below(suffix))
            else:
                closed_names.update(doh_hosts.children(suffix))

        for name in sorted(closed_names - exact.keys()):
            yield HostEntry(_RESOLVABLE, _reversed(name) + b"\0", True, name.count("."), _NOTHING, _NOTHING, True)
        for suffix in sorted(closed_suffixes):
            end = _reversed(suffix) + b"."
            yield HostEntry(_RESOLVABLE, end, False, suffix.count(".") + 1, _NOTHING, _NOTHING, True)

    def _slot(self, rules: int) -> HostSlot:
        slot = self._slots.get(rules)
        if slot is None:
            until, number = self._rules.lasting_longest(rules)
            ech_until, _ = self._rules.lasting_longest(rules & self._rules.with_ech)
            slot = self._slots[rules] = HostSlot(until, ech_until, number)
        return slot


def _reversed(name: str) -> bytes:
    return name[::-1].encode("ascii")
