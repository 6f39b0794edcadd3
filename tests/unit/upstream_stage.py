"""What the tests of Upstream share: servers on loopback, and a stage that shows whether anything was left behind."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from loopback_hosts import LoopbackHosts

from bed.hosts import Host
from bed.services import Zone
from exeat.dns.records import Kind, Reply
from exeat.dns.upstream import Upstream
from exeat.model.policy import Server, Upstreams

T = TypeVar("T")

# Each server gives the name an address of its own, so that an answer says who gave it.
FIRST, SECOND, THIRD, LIE = "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.66"
MANY = 250


def zone_of(address: str) -> Zone:
    """The zone of the server that is known by this address."""
    return {
        "shop.test": {"A": [address], "ttl": 60},
        "*.wild.test": {"A": [address], "ttl": 60},
        "www.shop.test": {"CNAME": ["shop.test."], "ttl": 5},
        "loop.test": {"CNAME": ["loop.test."]},
        "many.test": {"A": [f"203.0.113.{last}" for last in range(MANY)]},
        "large.test": {"TXT": [f'"{number:03}{"x" * 252}"' for number in range(244)]},
    }


class Stage:
    """Three servers, of which a test tells how they behave."""

    def __init__(self, hosts: LoopbackHosts) -> None:
        self.first = hosts.add("first", zone_of(FIRST))
        self.second = hosts.add("second", zone_of(SECOND))
        self.third = hosts.add("third", zone_of(THIRD))
        self.hosts = hosts

    @property
    def all(self) -> tuple[Host, Host, Host]:
        """The three."""
        return self.first, self.second, self.third

    def clear(self) -> None:
        """Plain manners, nothing asked."""
        for host in self.all:
            host.behave(None)
            host.reset()

    def server(self, host: Host) -> Server:
        """As a policy names it."""
        return self.hosts.server(host)

    def upstream(self, *hosts: Host | Server) -> Upstream:
        """One that asks these about everything."""
        servers = tuple(host if isinstance(host, Server) else self.server(host) for host in hosts)
        return Upstream((Upstreams(servers),), ())

    def asked(self, host: Host) -> list[str]:
        """What reached a server, as "udp shop.test A"."""
        return [f"{asked.transport} {asked.name} {asked.kind}" for asked in host.questions()]


def play(upstream: Upstream, scene: Callable[[], Awaitable[T]]) -> T:
    """Run a scene to its end, close the upstream, and see that no task and no descriptor is left."""

    async def main() -> T:
        before = descriptors()
        try:
            return await scene()
        finally:
            upstream.close()
            for _ in range(3):  # cancelled tasks end in the loop's next turns
                await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert descriptors() == before

    return asyncio.run(main())


def descriptors() -> dict[str, str]:
    """What is open, by number, without the one that reading this takes."""
    links = {path.name: path for path in Path("/proc/self/fd").iterdir()}
    return {number: os.readlink(path) for number, path in links.items() if path.is_symlink()}


async def answer_of(upstream: Upstream, name: str, kind: int) -> Reply | None:
    """What upstream says, waited for; who gives up gives up for itself."""
    answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
    upstream.ask(name, kind, lambda reply: None if answer.done() else answer.set_result(reply))
    return await answer


def ask(upstream: Upstream, name: str = "shop.test", kind: int = Kind.A) -> tuple[Reply | None, float]:
    """One question, with the seconds it took."""

    async def scene() -> tuple[Reply | None, float]:
        began = time.monotonic()
        return await answer_of(upstream, name, kind), time.monotonic() - began

    return play(upstream, scene)


def addresses(reply: Reply | None) -> list[str]:
    """The IPv4 addresses of a reply, which must be there."""
    assert reply is not None
    return [".".join(map(str, record.data)) for record in reply.records if record.kind == Kind.A]
