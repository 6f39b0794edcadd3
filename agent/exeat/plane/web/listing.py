"""Lists as somebody asks for them by the address: sorted, cut to what a page can hold. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

SHOWN_MAX = 500  # rows; beyond, a filter serves better than scrolling


@dataclass(frozen=True, slots=True)
class Listing(Generic[_T]):
    """The rows of a page, and of how many they are the first."""

    rows: Sequence[_T]
    total: int

    @property
    def left_out(self) -> int:
        """How many more there are."""
        return self.total - len(self.rows)


def listing(found: Sequence[_T], wish: str, keys: Mapping[str, Callable[[_T], Any]], otherwise: str) -> Listing[_T]:
    """`wish`: one of the keys, with `-` before it for the largest first; what is none of them sorts as `otherwise`."""
    name = wish.removeprefix("-")
    if name not in keys:
        wish, name = otherwise, otherwise.removeprefix("-")
    rows = sorted(found, key=keys[name], reverse=wish.startswith("-"))
    return Listing(rows[:SHOWN_MAX], len(rows))


def has_words(sought: str, *texts: str) -> bool:
    """Whether each word is somewhere in the texts, in small or large letters."""
    whole = "\n".join(texts).lower()
    return all(word in whole for word in sought.lower().split())
