"""Shell globs over one name, and tables in which a name finds its globs without a walk over all of them.

`*` stands for any characters, `?` for one, `[a-z]` and `[!a-z]` for one of a set. A backslash is a character like any
other, because systemd writes `\\x2d` into names; `*` also covers a leading dot, because a workload must not step out of
its policy by what it is called.
"""

import re
from collections.abc import Iterator
from fnmatch import translate
from functools import lru_cache
from typing import Generic, TypeVar

_T = TypeVar("_T")
_SPECIAL = re.compile(r"[*?\[]")
_REMEMBERED = 8192  # compiled globs; fnmatch remembers 256, fewer than a host's policies may have


def is_literal(text: str) -> bool:
    """Whether a glob stands for nothing but itself."""
    return not _SPECIAL.search(text)


@lru_cache(maxsize=_REMEMBERED)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob))


def is_match(glob: str, name: str) -> bool:
    """Whether a glob covers a whole name; upper and lower case differ."""
    return _compiled(glob).match(name) is not None


def front_of(glob: str) -> str:
    """The characters with which everything begins that a glob covers."""
    return _SPECIAL.split(glob, maxsplit=1)[0]


class Globs(Generic[_T]):
    """Values by glob. Only globs that begin like the name are tried, so that five hundred cost no more than a few."""

    def __init__(self) -> None:
        self._literals: dict[str, _T] = {}
        self._by_front: dict[str, dict[str, _T]] = {}
        self._front_lengths: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self._literals or self._by_front)

    def setdefault(self, glob: str, value: _T) -> _T:
        """The value under this very glob, which is the given one if there was none."""
        if is_literal(glob):
            return self._literals.setdefault(glob, value)
        front = front_of(glob)
        if front not in self._by_front:
            self._by_front[front] = {}
            self._front_lengths = tuple(sorted({*self._front_lengths, len(front)}))
        return self._by_front[front].setdefault(glob, value)

    def covering(self, name: str) -> Iterator[_T]:
        """The value of each glob that covers a name."""
        if name in self._literals:
            yield self._literals[name]
        for length in self._front_lengths:
            if length > len(name):
                return
            for glob, value in self._by_front.get(name[:length], {}).items():
                if is_match(glob, name):
                    yield value
