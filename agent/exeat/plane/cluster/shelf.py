"""The objects of one kind as they are known now, from lists and events. Pure: time is an argument.

A list is taken whole or not at all, and only a whole one, or word of a deletion, takes an object away.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from exeat.errors import ExeatError
from exeat.plane.cluster.document import Unfit, document_of
from exeat.plane.cluster.objects import Garbled, Item, Key, Kind, Outcome, Reason, is_older, is_version, read_item

# Twice what may be in force, so that whoever is over the limit is told by how much it is, and may change it.
_NAMESPACE_BYTES, _ALL_BYTES = 4 << 20, 32 << 20
DOUBTED_S = 300.0  # a list of an earlier time: a server that lags behind, or a cluster that was brought back

_CROWDED = Outcome(
    Reason.TOO_LARGE,
    "spec: the policies of this namespace, or of the whole cluster, are too large together for this one to be read: "
    "remove some that nobody needs",
)


class Doubtful(ExeatError):
    """A list that is older than what is known: it is not taken now."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object, and the document that it makes."""

    key: Key
    uid: str
    version: str
    generation: int
    status: Mapping[str, Any]
    text: str = ""  # empty: none can be made
    revision: str = ""  # of the text
    unfit: Outcome | None = None  # why none can be made

    @property
    def identity(self) -> tuple[str, int, str]:
        """What an outcome is about."""
        return self.uid, self.generation, self.revision

    @classmethod
    def of(cls, item: Item) -> "Seen":
        """With its document, if it makes one."""
        text, unfit = "", None
        try:
            text = document_of(item)
        except Unfit as error:
            unfit = error.outcome
        revision = sha256(text.encode()).hexdigest() if text else ""
        return cls(item.key, item.uid, item.version, item.generation, item.status, text, revision, unfit)


@dataclass(frozen=True, slots=True)
class Told:
    """An event, read."""

    version: str
    one: Seen | None = None  # None: nothing but the version is told
    is_gone: bool = False


def read_list(kind: Kind, items: Iterable[Any]) -> list[Seen]:
    """The objects of a list. Raises Garbled."""
    return [Seen.of(read_item(kind, one)) for one in items]


def read_event(kind: Kind, event: Any) -> Told:
    """What a watch tells, but its errors. Raises Garbled."""
    word, said = (event.get("type"), event.get("object")) if isinstance(event, dict) else (None, None)
    if word == "BOOKMARK":
        metadata = said.get("metadata") if isinstance(said, dict) else None
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not is_version(version):
            raise Garbled(f"a watch of {kind.plural} tells of no resourceVersion")
        return Told(str(version))
    if word not in ("ADDED", "MODIFIED", "DELETED"):
        raise Garbled(f"a watch of {kind.plural} tells what is no event")
    one = Seen.of(read_item(kind, said))
    return Told(one.version, one, word == "DELETED")


class Shelf:
    """Of one kind. Reading what came takes time, and is done before, by the functions above."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.seen: dict[Key, Seen] = {}
        self.version = ""  # as of which all of this is so; empty: there was no list yet
        self.wants_list = False  # there is room again for what had none
        self._sizes: Counter[str] = Counter()  # of texts, by namespace
        self._all = 0
        self._doubted_s: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether what is not here is not there."""
        return bool(self.version)

    def take_list(self, found: Iterable[Seen], version: Any, now_s: float) -> None:
        """All there are, as of a version. Raises Garbled and Doubtful, and then nothing has changed."""
        if not is_version(version):
            raise Garbled(f"the list of {self.kind.plural} has no resourceVersion")
        if is_older(version, self.version):
            self._doubted_s = now_s if self._doubted_s is None else self._doubted_s
            if now_s - self._doubted_s < DOUBTED_S:
                raise Doubtful(
                    f"the list of {self.kind.plural} is of version {version}, and {self.version} is known already: "
                    f"it is believed after {DOUBTED_S:.0f} s"
                )
        self._doubted_s = None
        self.seen, self._sizes, self._all, self.wants_list = {}, Counter(), 0, False
        for one in found:
            self._put(one)
        self.version = version

    def take(self, told: Told) -> bool:
        """What has changed; whether that is more than a status."""
        if not is_older(told.version, self.version):
            self.version = told.version
        if told.one is None:
            return False
        had = self.seen.get(told.one.key)
        # Told again after what came later, as by a watch that went back.
        if had and is_older(told.version, had.version):
            return False
        if not told.is_gone:
            self._put(told.one)
            return had is None or had.identity != told.one.identity
        if had is None or had.uid != told.one.uid:
            return False
        self._drop(had)
        return True

    def note(self, one: Seen) -> None:
        """An object as it is after a write of ours; the watch tells of it too, sooner or later."""
        had = self.seen.get(one.key)
        if had and had.uid == one.uid and not is_older(one.version, had.version):
            self._put(one)

    def _put(self, one: Seen) -> None:
        had = self.seen.get(one.key)
        freed = self._weigh(had, -1)
        size, space = len(one.text), one.key.namespace
        if size and (self._sizes[space] + size > _NAMESPACE_BYTES or self._all + size > _ALL_BYTES):
            one = replace(one, text="", revision="", unfit=_CROWDED)
        self.seen[one.key] = one
        self._note_room(freed - self._weigh(one, 1))

    def _drop(self, had: Seen) -> None:
        del self.seen[had.key]
        self._note_room(self._weigh(had, -1))

    def _weigh(self, one: Seen | None, sign: int) -> int:
        size = len(one.text) if one else 0
        if one:
            self._sizes[one.key.namespace] += sign * size
            self._all += sign * size
        return size

    def _note_room(self, freed: int) -> None:
        if freed > 0 and not self.wants_list:
            self.wants_list = any(one.unfit is _CROWDED for one in self.seen.values())
