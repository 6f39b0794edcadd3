"""A policy's `limits` section: what one workload may use up in a span of time, and what happens beyond."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from exeat.core.duration_text import parse_duration
from exeat.core.problems import Problems, shown
from exeat.core.yaml_fields import Fields, read_integer, read_parsed, read_word
from exeat.core.yaml_nodes import Node, Scalar
from exeat.model.policy import Limit, Limits, Then

_FIELDS = ("bytes", "connections", "destinations")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_SIZE = re.compile(r"(0|[1-9][0-9]{0,8})(|[KMG]i?)")
_CONNECTIONS = (1, 1_000_000_000)
_DESTINATIONS = (1, 65_536)  # each takes a place in the kernel: DESTINATIONS_MAX in bpf/limits.h is for all workloads
_PER_S = (1, 86_400)


def parse_size(text: str) -> int:
    """Read a number of bytes: `1500`, `500M` or `2Gi`. Raises ValueError with a sentence."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{shown(text)} is no number of bytes: write a whole number of at most 9 digits, alone or with K, M or G "
            "(powers of 1000) or Ki, Mi or Gi (of 1024), as in `500M`"
        )
    size = int(match[1]) * _UNITS[match[2]]
    if size == 0:
        raise ValueError("a limit of 0 bytes would deny everything: leave `egress` empty for that, or write more")
    return size


@dataclass(frozen=True, slots=True)
class LimitsReader:
    """Reads the `limits` section of one policy."""

    problems: Problems

    def read(self, spec: Fields) -> Limits:
        """The limits; what is left out is not limited."""
        limits = spec.mapping(spec.get("limits"), "`limits`", _FIELDS)
        if limits is None:
            return Limits()
        if not any(name in limits for name in _FIELDS):
            self.problems.add(
                spec.line_of("limits"), f"`limits` limits nothing: write {', '.join(_FIELDS)}, or leave it out"
            )
        return Limits(
            bytes=self._limit(limits, "bytes", self._size),
            connections=self._limit(limits, "connections", self._number(_CONNECTIONS)),
            destinations=self._limit(limits, "destinations", self._number(_DESTINATIONS)),
        )

    def _limit(self, limits: Fields, name: str, read_max: Callable[[Node | None], int | None]) -> Limit | None:
        fields = limits.mapping(limits.get(name), f"`{name}`", ("max", "per", "then"))
        if fields is None:
            return None
        example = f"as in `{name}: {{max: {'500M' if name == 'bytes' else 50}, per: 1h, then: deny}}`"
        most = read_max(fields.required("max", f"how much, {example}"))
        per_s = self._per_s(fields.required("per", f"in what time, {example}"))
        then = read_word(fields.get("then"), "`then`", Then, self.problems)
        return None if most is None or per_s is None else Limit(most, per_s, then or Then.DENY)

    def _size(self, node: Node | None) -> int | None:
        return read_parsed(node, "`max`", parse_size, self.problems)

    def _number(self, bounds: tuple[int, int]) -> Callable[[Node | None], int | None]:
        return lambda node: read_integer(node, "`max`", self.problems, *bounds)

    def _per_s(self, node: Node | None) -> int | None:
        seconds = read_parsed(node, "`per`", parse_duration, self.problems)
        if node is not None and seconds is not None and not _PER_S[0] <= seconds <= _PER_S[1]:
            text = shown(node.text) if isinstance(node, Scalar) else seconds
            self.problems.add(node.line, f"`per` is {text}: write a span from `1s` to `24h`")
            return None
        return seconds
