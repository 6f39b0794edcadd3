"""Sets of host names: the union of several tls rules' patterns as keys of one trie of reversed names.

The kernel finds only the longest key, so each key carries what every pattern says that covers its names: with
`**.example.com` and `*.api.example.com`, the key `moc.elpmaxe.ipa.` allows one label by either rule and more labels by
the first alone.
"""

from collections import defaultdict
from collections.abc import Iterator

from exeat.core.compile_rules import RankedRules
from exeat.model.names import PatternKind
from exeat.model.tables import HostEntry, HostSlot

_Key = tuple[bytes, bool, int, HostSlot, HostSlot]  # a HostEntry without its names_id


class NameSets:
    """Gives each distinct set of names one id, and collects the entries."""

    def __init__(self, rules: RankedRules, ids: Iterator[int]):
        self.entries: list[HostEntry] = []
        self._rules = rules
        self._ids = ids
        self._slots: dict[int, HostSlot] = {}
        self._id_by_rules: dict[int, int] = {0: 0}
        self._id_by_keys: dict[tuple[_Key, ...], int] = {}

    def id_of(self, rules: int) -> int:
        """The id of all that these tls rules name; 0 for no rules."""
        if rules not in self._id_by_rules:
            self._id_by_rules[rules] = self._intern(tuple(self._keys(rules)))
        return self._id_by_rules[rules]

    def _intern(self, keys: tuple[_Key, ...]) -> int:
        names_id = self._id_by_keys.get(keys)
        if names_id is None:
            names_id = self._id_by_keys[keys] = next(self._ids)
            self.entries.extend(HostEntry(names_id, *key) for key in keys)
        return names_id

    def _keys(self, rules: int) -> Iterator[_Key]:
        by_kind: dict[PatternKind, defaultdict[str, int]] = {kind: defaultdict(int) for kind in PatternKind}
        for bit, rule in self._rules.members(rules):
            for host in rule.hosts:
                by_kind[host.kind][host.name] |= bit
        exact, one_label, any_labels = (by_kind[kind] for kind in PatternKind)

        for name in sorted(exact):
            above = 0
            for ancestor in _ancestors(name):
                above |= any_labels.get(ancestor, 0)
            parent = name.partition(".")[2]
            allowing = exact[name] | one_label.get(parent, 0) | above
            yield _reversed(name) + b"\0", True, name.count("."), self._slot(allowing), HostSlot()

        for suffix in sorted(one_label.keys() | any_labels.keys()):
            below = any_labels.get(suffix, 0)
            for ancestor in _ancestors(suffix):
                below |= any_labels.get(ancestor, 0)
            one = self._slot(one_label.get(suffix, 0) | below)
            yield _reversed(suffix) + b".", False, suffix.count(".") + 1, one, self._slot(below)

    def _slot(self, rules: int) -> HostSlot:
        slot = self._slots.get(rules)
        if slot is None:
            until, number = self._rules.lasting_longest(rules)
            ech_until, _ = self._rules.lasting_longest(rules & self._rules.with_ech)
            slot = self._slots[rules] = HostSlot(until, ech_until, number)
        return slot


def _reversed(name: str) -> bytes:
    return name[::-1].encode("ascii")


def _ancestors(name: str) -> Iterator[str]:
    """`b.com` and `com` for `a.b.com`."""
    while name := name.partition(".")[2]:
        yield name
