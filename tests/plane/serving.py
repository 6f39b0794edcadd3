"""A whole plane in the test's own process, on free ports: every part is real, also TLS and the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from starlette.applications import Starlette

from exeat.plane.daemon import PlaneDaemon
from exeat.plane.metrics import routes
from exeat.plane.parts import Plane
from exeat.plane.settings import AgentsDoor, PlaneSettings, StorePlace, WebDoor
from exeat.plane.store.database import Database, Tx
from exeat.plane_access import PlaneAccess
from exeat.settings import Listen
from plane.certificates import Authority

ANY_PORT = Listen(ip_address("127.0.0.1"), 0)


@dataclass
class Serving:
    """A plane that runs."""

    daemon: PlaneDaemon
    plane: Plane
    authority: Authority
    accesses: dict[str, PlaneAccess]

    @property
    def port(self) -> int:
        """For agents."""
        return self.daemon.agents_port

    def access(self, node: str) -> PlaneAccess:
        """How a node reaches it; the same files each time."""
        if node not in self.accesses:
            self.accesses[node] = self.authority.node(node, self.port)
        return self.accesses[node]

    async def reading(self, read: Any, *args: Any) -> Any:
        """What it finds in the store."""
        return await asyncio.to_thread(_in, self.plane.database, False, read, args)

    async def writing(self, write: Any, *args: Any) -> Any:
        """As an operator's command would."""
        return await asyncio.to_thread(_in, self.plane.database, True, write, args)


def _in(database: Database, is_writing: bool, act: Any, args: tuple[Any, ...]) -> Any:
    with database.writing() if is_writing else database.reading() as tx:
        checked: Tx = tx
        return act(checked, *args)


@asynccontextmanager
async def serving(authority: Authority, store: str, **how: Any) -> AsyncIterator[Serving]:
    """It ends with the block, in order. `how`: fields of PlaneSettings."""
    files = authority.plane
    agents = how.pop("listen", ANY_PORT)
    settings = PlaneSettings(
        **{
            "agents": AgentsDoor(files.certificate, files.key, files.ca, agents),
            "name": "plane-1",
            "web": WebDoor(ANY_PORT),
            "store": StorePlace(store),
            **how,
        }
    )
    parts: list[Plane] = []

    def application(plane: Plane) -> Starlette:
        parts.append(plane)
        return Starlette(routes=routes(plane))

    daemon = PlaneDaemon(settings, application)
    task = asyncio.create_task(daemon.run())
    ready = asyncio.create_task(daemon.is_ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    if task.done():
        task.result()
    try:
        yield Serving(daemon, parts[0], authority, {})
    finally:
        ready.cancel()
        daemon.stop()
        await asyncio.wait_for(task, 20)


async def until(is_so: Any, within_s: float = 10.0) -> None:
    """Waits for it."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await asyncio.sleep(0.01)
