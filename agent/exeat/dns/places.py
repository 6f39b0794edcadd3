"""Where a gate listens: a set of sockets in each network namespace that its workload lives in."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from exeat.dns.listeners import Listeners
from exeat.dns.tcp import TcpClients


@dataclass(slots=True)
class _Place:
    """One namespace."""

    listeners: Listeners
    servers: list[asyncio.Task[asyncio.Server]]
    lost: int = 0


class Places:
    """Belongs to the gate's thread. `read` answers what waits at a socket; whether there may be more."""

    def __init__(self, read: Callable[[socket.socket], bool], clients: TcpClients, lost: Callable[[int], None]) -> None:
        self._read = read
        self._clients = clients
        self._lost = lost  # told how many questions did not fit into a queue
        self._places: dict[int, _Place] = {}

    def listen(self, listeners: Listeners) -> None:
        """Begins to answer there."""
        loop = asyncio.get_running_loop()
        servers = [loop.create_task(self._clients.listen(one)) for one in listeners.tcp]
        self._places[listeners.network] = _Place(listeners, servers)
        for one in listeners.udp:
            loop.add_reader(one, self._read, one)

    def leave(self, network: int) -> None:
        """Answers no more there; its sockets are closed. TCP connections end by themselves."""
        place = self._places.pop(network, None)
        if place is None:
            return
        loop = asyncio.get_running_loop()
        for one in place.listeners.udp:
            loop.remove_reader(one)
            while self._read(one):  # whoever asked has gone; what it asked is counted all the same
                continue
        for listening in place.servers:
            _close_server(listening)
        self._note_lost(place)
        place.listeners.close()

    def leave_all(self) -> None:
        """Answers nowhere."""
        for network in list(self._places):
            self.leave(network)

    def tick(self) -> None:
        """Once a second: looks for what was lost."""
        for place in self._places.values():
            self._note_lost(place)

    def _note_lost(self, place: _Place) -> None:
        lost = place.listeners.lost()
        if lost > place.lost:
            count, place.lost = lost - place.lost, lost
            self._lost(count)


def _close_server(listening: "asyncio.Task[asyncio.Server]") -> None:
    if not listening.done():
        listening.cancel()
    elif not listening.cancelled() and not listening.exception():
        listening.result().close()
