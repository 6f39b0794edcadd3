"""Hosts that resolve names over HTTPS: no wildcard covers them, because behind such a host every policy ends.

A rule may still name one exactly. The list, with its sources, is doh_hosts.txt.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from exeat.model.names import HostPattern, PatternKind


@dataclass(frozen=True, slots=True)
class DohHosts:
    """A list of such hosts, found by name and by what they are below."""

    names: frozenset[str]
    suffixes: frozenset[str]  # with a name of its own for each customer: everything below is such a host
    _names_below: dict[str, tuple[str, ...]]
    _suffixes_below: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, patterns: Iterable[HostPattern]) -> "DohHosts":
        """Index exact names and `**.` patterns. Raises ValueError for `*.`: a subtree is closed as a whole."""
        by_kind: dict[PatternKind, set[str]] = {kind: set() for kind in PatternKind}
        for pattern in patterns:
            by_kind[pattern.kind].add(pattern.name)
        if by_kind[PatternKind.ONE_LABEL]:
            raise ValueError(f"`*.` closes no whole subtree: {sorted(by_kind[PatternKind.ONE_LABEL])}")
        names, suffixes = by_kind[PatternKind.EXACT], by_kind[PatternKind.ANY_LABELS]
        return cls(frozenset(names), frozenset(suffixes), _by_ancestor(names), _by_ancestor(suffixes))

    def covers(self, name: str) -> bool:
        """Whether a lower-case A-label name is such a host."""
        return name in self.names or not self.suffixes.isdisjoint(ancestors(name))

    def closing(self, suffix: str) -> str | None:
        """What closes the whole of a suffix: itself or one above it; None if nothing does."""
        return next((above for above in (suffix, *ancestors(suffix)) if above in self.suffixes), None)

    def names_below(self, suffix: str) -> tuple[str, ...]:
        """The names that are below a suffix, at any depth."""
        return self._names_below.get(suffix, ())

    def children(self, suffix: str) -> Iterator[str]:
        """The names that are one label below a suffix."""
        return (name for name in self.names_below(suffix) if name.partition(".")[2] == suffix)

    def suffixes_below(self, suffix: str) -> tuple[str, ...]:
        """The suffixes that are below another, at any depth."""
        return self._suffixes_below.get(suffix, ())


@cache
def known_doh_hosts() -> DohHosts:
    """The list that exeat comes with. Its lines are canonical already, so that no policy waits for a parser."""
    text = files("exeat.core").joinpath("doh_hosts.txt").read_text(encoding="ascii")
    return DohHosts.of(map(_pattern, filter(None, (line.partition("#")[0].strip() for line in text.splitlines()))))


def ancestors(name: str) -> Iterator[str]:
    """`b.com` and `com` for `a.b.com`."""
    while name := name.partition(".")[2]:
        yield name


def _pattern(line: str) -> HostPattern:
    if line.startswith(PatternKind.ANY_LABELS.value):
        return HostPattern(PatternKind.ANY_LABELS, line.removeprefix(PatternKind.ANY_LABELS.value))
    return HostPattern(PatternKind.EXACT, line)


def _by_ancestor(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    below: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        for ancestor in ancestors(name):
            below[ancestor].append(name)
    return {ancestor: tuple(found) for ancestor, found in below.items()}
