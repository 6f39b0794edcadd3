"""Keeps an agent connected to its plane: one endpoint after the other, later each time, with the files as they are now.

    client = PlaneClient(access, fleet, reporter, away)
    await client.run()                      # until it is cancelled

A `Talker` gets each new connection. `sync` talks on it as long as it lives: when it ends, the connection does. `report`
begins once the plane has taken the agent in (`channel.welcomed`); when it fails alone, it alone tries again.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from exeat.control.backoff import Backoff
from exeat.control.plane_channel import PlaneAway, PlaneChannel, Stream
from exeat.control.plane_files import Credentials, read_credentials, state_of
from exeat.control.together import until_one_ends
from exeat.errors import ExeatError
from exeat.plane_access import Endpoint, PlaneAccess

__all__ = ["PlaneAway", "PlaneChannel", "PlaneClient", "Stream", "Talker"]
_LONG_S = 60.0  # a connection that lived so long was a good one
_FILES_S = 2.0  # how often the files are looked at
_BUG = "exeat failed at what the plane sent; the agent's log says how: journalctl -u exeat"
_log = logging.getLogger("exeat")


class Talker(Protocol):
    """One end of a stream."""

    async def talk(self, channel: PlaneChannel) -> None:
        """Opens its stream and talks on it until it ends. Raises PlaneAway with the reason."""


class PlaneClient:
    """`away` hears why there is no connection, each time that one ended or was not made."""

    def __init__(
        self, access: PlaneAccess, sync: Talker, report: Talker | None, away: Callable[[Endpoint, str], None]
    ) -> None:
        self.trouble = ""  # of new files, while the connection goes on with the old ones
        self._access = access
        self._sync = sync
        self._report = report
        self._away = away
        self._unfit: tuple[tuple[int, ...], ...] = ()  # the state of files that will not do
        self._channel: PlaneChannel | None = None
        self._unreported = ""

    @property
    def report_trouble(self) -> str:
        """Why verdicts cannot be reported, although the plane is there; empty: they are."""
        return self._unreported if self._channel and not self._channel.is_reporting else ""

    async def run(self) -> None:
        """For ever."""
        backoff, turn = Backoff(), 0
        while True:
            endpoint = self._access.endpoints[turn % len(self._access.endpoints)]
            began = time.monotonic()
            try:
                await self._talk(endpoint)
            except ExeatError as error:
                why = str(error)
            except Exception:  # noqa: BLE001  # told and logged: the next connection may fare better
                _log.exception("the conversation with plane %s broke off", endpoint)
                why = f"plane {endpoint}: {_BUG}"
            else:
                why = ""  # the files are other ones now
            if why:
                self._away(endpoint, why)
                turn += 1
            if time.monotonic() - began >= _LONG_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())

    async def _talk(self, endpoint: Endpoint) -> None:
        """Returns when the files have changed."""
        credentials = read_credentials(self._access)
        self.trouble = ""
        async with PlaneChannel(endpoint, self._access, credentials) as channel:
            self._channel = channel
            report = [self._keep_reporting(channel, self._report)] if self._report else []
            ended = await until_one_ends(self._sync.talk(channel), self._follow_files(credentials), *report)
            if ended == 0:
                raise PlaneAway(f"plane {endpoint}: the conversation has ended")

    async def _follow_files(self, credentials: Credentials) -> None:
        """Returns when other files are there that will do; what is half written is waited for."""
        while True:
            await asyncio.sleep(_FILES_S)
            seen = state_of(self._access)
            if seen in (credentials.seen, self._unfit):
                continue
            try:
                await asyncio.to_thread(read_credentials, self._access)
            except ExeatError as error:
                self._unfit = seen
                self.trouble = f"the plane's connection goes on with the certificate files as they were: {error}"
                _log.warning("%s", self.trouble)
                continue
            _log.info("the certificate files for the plane are new: connecting anew")
            return

    async def _keep_reporting(self, channel: PlaneChannel, report: Talker) -> None:
        await channel.welcomed.wait()
        backoff = Backoff()
        while True:
            began = time.monotonic()
            try:
                await report.talk(channel)
            except ExeatError as error:
                self._unreported = f"verdicts are not reported: {error}"
            except Exception:  # noqa: BLE001  # the same
                _log.exception("reporting verdicts to plane %s broke off", channel.endpoint)
                self._unreported = f"verdicts are not reported: {_BUG}"
            if time.monotonic() - began >= _LONG_S:
                backoff.reset()
            await asyncio.sleep(backoff.next_s())
