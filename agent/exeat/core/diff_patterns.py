"""Which names and ports one set of host patterns allows and another does not.

Of two patterns, either one holds all names of the other or they share none. So what is left of a pattern is the pattern
without some patterns inside it, and nothing needs to be enumerated. Hosts that resolve names over HTTPS are in no
wildcard, as in the compiled tables.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exeat.core.diff_spans import Spans, common, minus, spans
from exeat.core.doh_hosts import ancestors, known_doh_hosts
from exeat.model.names import HostPattern, PatternKind

Names = HostPattern | None  # None: whatever name is named, or none at all


@dataclass(frozen=True, slots=True)
class Gap:
    """Names and ports that only one side allows."""

    names: Names
    ports: Spans
    excepts: tuple[HostPattern, ...]  # patterns inside `names` that both sides allow on these ports


class NamedPorts:
    """Ports by the names that may be named on them."""

    def __init__(self, ports: Mapping[Names, Spans]) -> None:
        self._ports = {names: its for names, its in ports.items() if its and not _is_empty(names)}
        self._inside: dict[HostPattern, list[HostPattern]] | None = None

    def __iter__(self) -> Iterator[tuple[Names, Spans]]:
        return iter(self._ports.items())

    def covering(self, names: Names) -> Iterator[tuple[Names, Spans]]:
        """Every entry that holds all of these names, their own included."""
        for wider in (None, *wider_patterns(names)) if names is not None else (None,):
            ports = self._ports.get(wider)
            if ports:
                yield wider, ports

    def inside(self, names: Names) -> Iterator[tuple[HostPattern, Spans]]:
        """Every entry that holds some of these names, and not all."""
        if names is None:
            yield from ((inner, ports) for inner, ports in self._ports.items() if inner is not None)
        elif names.kind is not PatternKind.EXACT:
            for inner in self._index().get(names, ()):
                yield inner, self._ports[inner]

    def _index(self) -> dict[HostPattern, list[HostPattern]]:
        if self._inside is None:
            index: defaultdict[HostPattern, list[HostPattern]] = defaultdict(list)
            for inner in self._ports:
                for wider in wider_patterns(inner) if inner is not None else ():
                    if inner is not None and wider != inner:
                        index[wider].append(inner)
            self._inside = dict(index)
        return self._inside


def difference(these: NamedPorts, those: NamedPorts) -> Iterator[Gap]:
    """What these allow and those do not; each name and port stands in one gap."""
    for names, ports in these:
        if those._ports.get(names) == ports:  # most entries of two large policies: nothing would be left of them
            continue
        left = ports
        for wider, its_ports in these.covering(names):
            left = left if wider == names else minus(left, its_ports)
        for _, its_ports in those.covering(names):
            left = minus(left, its_ports)
        if left:
            yield from _gaps(names, left, those)


def _gaps(names: Names, left: Spans, those: NamedPorts) -> Iterator[Gap]:
    """The ports apart by what the others allow of the names on them."""
    inner = [(pattern, both) for pattern, ports in those.inside(names) if (both := common(ports, left))]
    edges = {edge for _, ports in inner for first, last in ports for edge in (first, last + 1)}
    cells: defaultdict[tuple[HostPattern, ...], list[tuple[int, int]]] = defaultdict(list)
    for first, last in left:
        starts = sorted({first, *(edge for edge in edges if first < edge <= last)})
        for start, end in zip(starts, [*(start - 1 for start in starts[1:]), last], strict=True):
            excepts = tuple(pattern for pattern, ports in inner if any(a <= start <= b for a, b in ports))
            cells[excepts].append((start, end))
    for excepts, cell in cells.items():
        yield Gap(names, spans(cell), widest(excepts))


def widest(patterns: tuple[HostPattern, ...]) -> tuple[HostPattern, ...]:
    """Without those that lie inside another of them, sorted."""
    all_of_them = set(patterns)
    kept = (
        one for one in all_of_them if not any(wider != one and wider in all_of_them for wider in wider_patterns(one))
    )
    return tuple(sorted(kept))


def is_inside(inner: HostPattern, names: HostPattern) -> bool:
    """Whether a pattern allows all that another one does."""
    return names in wider_patterns(inner) or _is_empty(inner)


def wider_patterns(pattern: HostPattern) -> Iterator[HostPattern]:
    """The pattern, and every other that holds all of its names."""
    yield pattern
    suffix = pattern.name
    if pattern.kind is PatternKind.EXACT:
        if known_doh_hosts().covers(pattern.name):
            return
        suffix = pattern.name.partition(".")[2]
        if not suffix:
            return
        yield HostPattern(PatternKind.ONE_LABEL, suffix)
        yield HostPattern(PatternKind.ANY_LABELS, suffix)
    elif pattern.kind is PatternKind.ONE_LABEL:
        yield HostPattern(PatternKind.ANY_LABELS, suffix)
    for ancestor in ancestors(suffix):
        yield HostPattern(PatternKind.ANY_LABELS, ancestor)


def _is_empty(names: Names) -> bool:
    """Whether all that a wildcard covers resolves names over HTTPS."""
    is_wild = names is not None and names.kind is not PatternKind.EXACT
    return is_wild and names is not None and known_doh_hosts().closing(names.name) is not None
