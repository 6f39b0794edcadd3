"""The agent's end of its control plane, put together: what was kept, who talks, and what is shown of it.

end = PlaneEnd(settings, access, application, vitals)
end.begin()                  # before anything is enforced: what the plane sent last stands on the shelf again
end.start(operations)        # talks with the plane from now on
await end.stop()
"""

import asyncio
import logging
import os
import secrets
from contextlib import suppress

from exeat import __version__
from exeat.agent.application import Application
from exeat.agent.bundle_files import BundleFiles
from exeat.agent.command_memory import CommandMemory
from exeat.agent.commands import Commands, Doing
from exeat.agent.fleet import Fleet
from exeat.agent.fleet_parts import NodeFacts
from exeat.agent.ground import HostGround, held_of
from exeat.agent.shelf import Given
from exeat.agent.standing import Standing
from exeat.agent.trust import Trust
from exeat.agent.vitals import Vitals
from exeat.control.plane_client import PlaneClient, Talker
from exeat.control.together import until_one_ends
from exeat.kernel.instance import own_build
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.settings import Settings

_FEATURES = ("cgroups", "interfaces", "names", "limits", "allowances", "quarantine")
_BUILD_DIGITS = 12
_log = logging.getLogger("exeat")


class PlaneEnd:
    """Belongs to the control loop."""

    def __init__(self, settings: Settings, access: PlaneAccess, application: Application, vitals: Vitals) -> None:
        self._settings = settings
        self._access = access
        self._application = application
        self._vitals = vitals
        self._trust = Trust(access.public_key)
        self._files = BundleFiles(settings.state / "plane")
        self._task: asyncio.Task[None] | None = None
        self.standing = vitals.plane = Standing(settings.node.name)

    def begin(self) -> None:
        """What the plane sent last holds again. Nothing is opened by its absence."""
        kept = self._files.load(self._settings.node.name, self._trust)
        self.standing.bundle, self.standing.damage = kept.bundle, kept.complaint
        held = held_of(kept.bundle) if kept.bundle else ()
        given = Given(held, is_known=kept.bundle is not None, is_whole=not kept.complaint)
        self._application.host.shelf.give(given)

    def start(self, operations: Doing, report: Talker | None = None, *, started_ns: int) -> None:
        """Talks with the plane, as long as it is there."""
        ground = HostGround(self._application, self._vitals)
        memory = CommandMemory(self._settings.state / "plane" / "commands.json")
        node = self._settings.node
        commands = Commands(node.name, self._trust, memory, operations, ground.state_of)
        facts = NodeFacts(
            name=node.name,
            labels=dict(node.labels),
            version=__version__,
            kernel=os.uname().release,
            features=(*_FEATURES, f"programs {own_build()[:_BUILD_DIGITS]}"),
            start=secrets.token_hex(8),
            started_ns=started_ns,
            trust=self._trust,
        )
        fleet = Fleet(facts, ground, self._files, commands, self.standing)
        client = PlaneClient(self._access, fleet, report, self._away)
        self.standing.troubles += (lambda: client.trouble, lambda: client.report_trouble, lambda: memory.complaint)
        self._task = asyncio.get_running_loop().create_task(_both(client, fleet))

    async def stop(self) -> None:
        """Hangs up."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _away(self, endpoint: Endpoint, why: str) -> None:
        if why != self.standing.fault:
            _log.warning("%s", why.encode("ascii", "backslashreplace").decode())
        self.standing.went(str(endpoint), why)


async def _both(client: PlaneClient, fleet: Fleet) -> None:
    await until_one_ends(client.run(), fleet.keep_on())
