"""What every connected node is to have, and the pushes that bring it there.

One look at the store serves all nodes that need one, however many news there were. A node that has not answered yet, or
that refused the same, is left alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from exeat.plane.nodes import nodes
from exeat.plane.policies import policies
from exeat.plane.policies.assign import Entries, Issued, entries_for, is_due, manifest_for
from exeat.plane.policies.signing import PlaneSigner
from exeat.plane.store.database import Database, StoreError, Tx
from exeat.plane.streams.sync_session import Push, SyncSession

_TOGETHER_S = 0.005  # news of one change come in a bunch
_ANYWAY_S = 60.0  # news can be lost, and manifests grow old
_AFTER_ERROR_S = 2.0
_UNDERWAY_MAX = 256 << 20  # bytes of documents that were sent and not answered
_ANSWER_S = 60.0  # a push that has no answer by then takes no room from others: some nodes never answer
_log = logging.getLogger("exeat.plane")


@dataclass(frozen=True, slots=True)
class Ask:
    """A node for which to look; what the session knew at that moment."""

    session: SyncSession
    has: Issued | None
    held: frozenset[str]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a node is to be sent."""

    ask: Ask
    entries: Entries
    lacks: tuple[str, ...]  # revisions


class Pushing:
    """For one event loop: run() is its only task, so that no two pushes are drawn up for a node at once."""

    def __init__(self, database: Database, signer: PlaneSigner, sessions: Callable[[], Iterable[SyncSession]]) -> None:
        self._database = database
        self._signer = signer
        self._sessions = sessions
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A session may need a push."""
        self._wake.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                async with asyncio.timeout(_ANYWAY_S):
                    await self._wake.wait()
            except TimeoutError:
                for session in self._sessions():
                    session.is_stale = True
            await asyncio.sleep(_TOGETHER_S)
            self._wake.clear()
            try:
                await self._push()
            except StoreError as error:
                _log.warning("nodes get nothing new for now: %s", error)
                await asyncio.sleep(_AFTER_ERROR_S)
                self._wake.set()

    async def _push(self) -> None:
        now_s = time.monotonic()
        room = _UNDERWAY_MAX - sum(
            one.push.size for one in self._sessions() if one.push and now_s - one.push.began_s < _ANSWER_S
        )
        asks = [Ask(one, one.has, frozenset(one.held)) for one in self._sessions() if one.can_be_pushed(now_s)]
        if not asks:
            return
        if room <= 0:  # an answer wakes this again, or time does
            asyncio.get_running_loop().call_later(_ANSWER_S, self._wake.set)
            return
        for ask in asks:
            ask.session.is_stale = False  # news that come from here on make it so again
        try:
            pushes = await asyncio.to_thread(self._drawn, asks, room)
        except BaseException:  # cancelled as well: nobody may be taken to have been looked after
            for ask in asks:
                ask.session.is_stale = True
            raise
        for ask, push in pushes:
            if push is None:  # no room for it now
                ask.session.is_stale = True
            else:
                ask.session.send_push(push)

    def _drawn(self, asks: list[Ask], room: int) -> list[tuple[Ask, Push | None]]:
        now_ns = time.time_ns()
        with self._database.reading() as tx:
            drafts = _drafts(tx, asks, now_ns)
            texts = policies.documents(tx, {revision for draft in drafts for revision in draft.lacks})
        if not drafts:
            return []
        fitting, rest = _fitting(drafts, {revision: len(text) for revision, text in texts.items()}, room)
        with self._database.writing() as tx:
            serials = {
                draft.ask.session.node: nodes.next_serial(tx, draft.ask.session.node, now_ns)
                for draft in sorted(fitting, key=lambda draft: draft.ask.session.node)  # two replicas in one order
            }
        found: list[tuple[Ask, Push | None]] = [(draft.ask, None) for draft in rest]
        for draft in fitting:
            found.append((draft.ask, self._push_of(draft, serials[draft.ask.session.node], texts, now_ns)))
        return found

    def _push_of(self, draft: Draft, serial: int, texts: dict[str, str], now_ns: int) -> Push:
        manifest = manifest_for(draft.ask.session.node, draft.entries, serial, now_ns)
        return Push(
            issued=Issued(serial, draft.entries, now_ns),
            signed=self._signer.sign_manifest(manifest),
            revisions=draft.lacks,
            texts=texts,
            is_whole=len(draft.lacks) == len({revision for _, revision in draft.entries}),
            size=sum(len(texts[revision]) for revision in draft.lacks),
            began_s=time.monotonic(),
        )


def _drafts(tx: Tx, asks: Iterable[Ask], now_ns: int) -> list[Draft]:
    placements = policies.placements(tx)
    known = {node.name: node for node in nodes.nodes(tx)}
    found = []
    for ask in asks:
        node = known.get(ask.session.node)
        if node is None or node.is_retired:
            continue
        entries = entries_for(node.name, node.effective_labels, placements)
        # The serial is ahead of what the node has where it was sent something in between, and has refused it.
        is_settled = ask.has is not None and ask.has.serial == node.serial and not is_due(ask.has, entries, now_ns)
        if not is_settled and not ask.session.is_refused(entries):
            lacks = {revision for _, revision in entries} - ask.held
            found.append(Draft(ask, entries, tuple(sorted(lacks))))
    return found


def _fitting(drafts: list[Draft], sizes: dict[str, int], room: int) -> tuple[list[Draft], list[Draft]]:
    """Those for which there is room, at least one, and the rest."""
    fitting: list[Draft] = []
    for at, draft in enumerate(drafts):
        room -= sum(sizes[revision] for revision in draft.lacks)
        if room < 0 and fitting:
            return fitting, drafts[at:]
        fitting.append(draft)
    return fitting, []
