"""Puts the cluster's policies into the store, and takes away those whose objects are gone, each in one transaction."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exeat.plane.cluster import lease
from exeat.plane.cluster.objects import Key, Outcome, Reason
from exeat.plane.policies import policies
from exeat.plane.policies.policies import TOGETHER_MAX, Change, Draft, Source
from exeat.plane.policies.policy_rows import KeptPolicy, kept, lock
from exeat.plane.store.database import Tx

_BY = "cluster"
NAMESPACE_BYTES, NAMESPACE_POLICIES = 2 << 20, 200
CLUSTER_BYTES, CLUSTER_POLICIES = 16 << 20, 5000  # people's have the rest of what agents take


@dataclass(frozen=True, slots=True)
class Fresh:
    """An object whose document was read and is to hold."""

    key: Key
    generation: int
    draft: Draft


@dataclass(frozen=True, slots=True)
class Here:
    """A policy in the store."""

    revision: str
    source: Source


def held(tx: Tx) -> dict[str, Here]:
    """All of them by name, wherever they are from."""
    rows = tx.all("SELECT name, revision, source FROM policies")
    return {name: Here(revision, Source(source)) for name, revision, source in rows}


def place(tx: Tx, who: str, fresh: Sequence[Fresh], owners: Mapping[str, Key], now_ns: int) -> dict[Key, Outcome]:
    """Makes them hold; what became of each. `owners`: whose every policy of the cluster is. Raises Lost."""
    lock(tx)
    lease.check(tx, who)
    room = _Room(kept(tx), owners)
    found = {}
    for one in fresh:
        why_not = room.why_not(one)
        if why_not is None:
            reason = f"{one.key}, generation {one.generation}"
            policies.place_one(tx, one.draft, Change(_BY, reason, now_ns, source=Source.CLUSTER))
            room.put(one)
        found[one.key] = why_not or Outcome(Reason.ACCEPTED)
    return found


def remove(tx: Tx, who: str, names: Iterable[str], now_ns: int) -> None:
    """Takes policies of the cluster away. Raises Lost."""
    lock(tx)
    lease.check(tx, who)
    there = held(tx)
    for name in sorted(names):
        if name in there and there[name].source is Source.CLUSTER:
            policies.remove(tx, name, Change(_BY, "its object is gone", now_ns, source=Source.CLUSTER))


def taken(key: Key, here: Here) -> Outcome:
    """Its policy's name is that of one from elsewhere."""
    where = policies.where_kept(key.policy, here.source)
    return Outcome(Reason.NAME_TAKEN, f"metadata.name: a policy named {key.policy} is kept {where}; or name this anew")


class _Room:
    """What there is already, and how much of it."""

    def __init__(self, there: Iterable[KeptPolicy], owners: Mapping[str, Key]) -> None:
        self._there = {one.name: Here(one.revision, one.source) for one in there}
        self._sizes = {one.name: one.facts.size for one in there}
        ours = {name for name, here in self._there.items() if here.source is Source.CLUSTER}
        self._counts = Counter(owners[name].namespace for name in ours if name in owners)
        self._bytes: Counter[str] = Counter()
        for name in ours & owners.keys():
            self._bytes[owners[name].namespace] += self._sizes[name]
        self._count = len(ours)
        self._ours = sum(self._sizes[name] for name in ours)
        self._all = sum(self._sizes.values())

    def why_not(self, one: Fresh) -> Outcome | None:
        """Why it has no place here, if it has none. What becomes smaller always has."""
        name, space = one.key.policy, one.key.namespace
        here = self._there.get(name)
        if here and here.source is not Source.CLUSTER:
            return taken(one.key, here)
        more, new = one.draft.facts.size - self._sizes.get(name, 0), here is None
        if more <= 0 and not new:
            return None
        if space and self._bytes[space] + more > NAMESPACE_BYTES:
            return _too_large(f"those of namespace {space} would have more than {NAMESPACE_BYTES >> 20} MiB")
        if space and self._counts[space] + new > NAMESPACE_POLICIES:
            return _too_large(f"namespace {space} would have more than {NAMESPACE_POLICIES} policies")
        if self._ours + more > CLUSTER_BYTES or self._all + more > TOGETHER_MAX:
            return _too_large(f"those of all namespaces would have more than {CLUSTER_BYTES >> 20} MiB")
        if self._count + new > CLUSTER_POLICIES:
            return _too_large(f"all namespaces would have more than {CLUSTER_POLICIES} policies")
        return None

    def put(self, one: Fresh) -> None:
        """It is there now."""
        name, space = one.key.policy, one.key.namespace
        more, new = one.draft.facts.size - self._sizes.get(name, 0), name not in self._there
        self._there[name] = Here(one.draft.revision, Source.CLUSTER)
        self._sizes[name] = one.draft.facts.size
        self._bytes[space] += more
        self._counts[space] += new
        self._count += new
        self._ours += more
        self._all += more


def _too_large(what: str) -> Outcome:
    return Outcome(Reason.TOO_LARGE, f"spec: {what} together: remove policies that nobody needs, or unite some")
