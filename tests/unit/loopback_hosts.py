"""The bed's hosts on this machine's loopback: DNS servers that misbehave as they are told, for tests without root."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, TypeVar

from bed.hosts import Host, Hosts
from bed.services import Dns, Zone
from exeat.model.policy import Server

T = TypeVar("T")

ADDRESSES = ("127.0.0.1", "::1")
_TRIES = 20


class _Loopback:
    """As much of a Network as Hosts needs."""

    @property
    def hosts(self) -> _Loopback:
        """The process lives where the test does."""
        return self

    def call(self, function: Callable[[], T]) -> T:
        """Nowhere else."""
        return function()

    def next_addresses(self) -> tuple[str, str]:
        """The same for all: hosts differ by their ports."""
        return ADDRESSES


class LoopbackHosts:
    """DNS servers, each at a port of its own."""

    def __init__(self) -> None:
        network: Any = _Loopback()
        authority: Any = None  # issues certificates, of which DNS has none
        self._hosts = Hosts(network, authority)
        self._ports: dict[str, int] = {}

    def add(self, name: str, zone: Zone) -> Host:
        """Put one up."""
        self._ports[name] = free_port()
        return self._hosts.add(name, Dns(zone, port=self._ports[name]))

    def server(self, host: Host, address: str = ADDRESSES[0]) -> Server:
        """The host, as a policy would name it."""
        return Server(ip_address(address), self._ports[host.name])

    def close(self) -> None:
        """End them all."""
        self._hosts.close()


def free_port() -> int:
    """A port on which nobody listens, by neither protocol and at neither address."""
    for _ in range(_TRIES):
        with contextlib.ExitStack() as open_sockets, contextlib.suppress(OSError):
            port = 0
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                for family, address in zip((socket.AF_INET, socket.AF_INET6), ADDRESSES, strict=True):
                    sock = open_sockets.enter_context(socket.socket(family, kind))
                    sock.bind((address, port))
                    port = sock.getsockname()[1]
            return port
    raise OSError(f"no free port in {_TRIES} tries")


@contextlib.contextmanager
def loopback_hosts() -> Iterator[LoopbackHosts]:
    """As long as it is needed."""
    hosts = LoopbackHosts()
    try:
        yield hosts
    finally:
        hosts.close()
