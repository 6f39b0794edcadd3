"""An agent's end of a plane's Sync stream, by hand: it says what a test tells it to say.

async def talk(plane: Serving) -> None:
    async with calling(plane) as agent:
        await agent.hello()
        manifest = await agent.take()

run(tmp_path, talk)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exeat.control.plane_channel import PlaneAway, PlaneChannel
from exeat.control.plane_files import read_credentials
from exeat.plane.nodes import nodes
from exeat.plane.nodes.node import Node
from exeat.v1 import plane_pb2 as pb
from plane.certificates import authority
from plane.serving import Serving, serving
from plane.stores import url_of

NODE = "node-1.test"


class Caller:
    """An agent's end of one Sync stream, by hand."""

    def __init__(self, channel: PlaneChannel) -> None:
        self._stream = channel.sync()

    async def say(self, **said: Any) -> None:
        """One message."""
        await self._stream.say(pb.SyncRequest(**said))

    async def hello(self, node: str = NODE, *, start: str = "1", protocol: int = 1, **said: Any) -> pb.Welcome:
        """As the first message; the welcome."""
        hello = pb.Hello(node=node, start=start, protocol=protocol, version="0.9", **said)
        hello.now.FromNanoseconds(time.time_ns())
        await self.say(hello=hello)
        return (await self.hear()).welcome

    async def hear(self, within_s: float = 5.0) -> pb.SyncResponse:
        """The next message that is no beat."""
        while (heard := await self._stream.hear(within_s)).WhichOneof("said") == "beat":
            pass
        return heard

    async def push(self) -> tuple[pb.PolicyPush, pb.Manifest]:
        """The next message, which must be one."""
        heard = await self.hear()
        assert heard.WhichOneof("said") == "push", heard
        return heard.push, pb.Manifest.FromString(heard.push.manifest.content)

    async def hears_nothing(self, for_s: float = 0.4) -> None:
        """Ends the stream."""
        with pytest.raises(PlaneAway, match="it has said nothing"):
            await self.hear(for_s)

    async def take(self) -> pb.Manifest:
        """The next push, accepted."""
        push, manifest = await self.push()
        await self.say(answer=pb.PolicyAnswer(nonce=push.nonce, is_accepted=True, serial=manifest.serial, took_ns=7))
        return manifest

    async def refuse(self, *faults: str, **said: Any) -> pb.PolicyPush:
        """The next push, refused."""
        push, _ = await self.push()
        told = [pb.PolicyFault(policy="p", text=fault) for fault in faults]
        await self.say(answer=pb.PolicyAnswer(nonce=push.nonce, faults=told, **said))
        return push


@asynccontextmanager
async def calling(plane: Serving, node: str = NODE) -> AsyncIterator[Caller]:
    """A stream on a connection of its own."""
    access = plane.access(node)
    async with PlaneChannel(access.endpoints[0], access, read_credentials(access)) as channel:
        yield Caller(channel)


def run(tmp_path: Path, talk: Callable[[Serving], Awaitable[None]], kind: str = "sqlite", **how: Any) -> None:
    """With a plane of its own."""

    async def act() -> None:
        async with serving(authority(tmp_path / "papers"), url_of(kind, tmp_path), **how) as plane:
            await talk(plane)

    asyncio.run(act())


async def node_of(plane: Serving, name: str = NODE) -> Node:
    """As the store knows it."""
    found = await plane.reading(nodes.node, name)
    assert isinstance(found, Node)
    return found


async def becomes(plane: Serving, is_so: Callable[[Node], bool], name: str = NODE) -> Node:
    """Waits until the store knows it so."""
    async with asyncio.timeout(5):
        while not is_so(node := await node_of(plane, name)):
            await asyncio.sleep(0.02)
    return node
