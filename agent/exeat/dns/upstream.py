"""Asks a policy's upstream resolvers, each about the domains that are its own (split horizon).

A question travels as nothing but its name and kind, and once, however many ask it at a time.
"""

import asyncio
import socket
from functools import partial

from exeat.dns.exchange import EDNS_PAYLOAD, Asking, Counts, MakeSocket
from exeat.dns.health import Peer
from exeat.dns.race import Race, Then
from exeat.dns.wire import write_query
from exeat.errors import ExeatError
from exeat.model.policy import Server, Upstreams

# Each takes a socket and, where servers keep silent, up to OPEN_MAX of them: together fewer than 1,024, the usual limit
# of a process, of which listeners and clients need some.
IN_FLIGHT_MAX = 200


class Flood(ExeatError):
    """So many questions wait for upstream that no further one is taken."""


class Upstream:
    """All resolvers of one policy. `fallback` is asked about what no entry covers: the host's own (resolv_conf.py).

    make_socket: where its sockets come from, by family and type; for tests, and for another network namespace.
    """

    def __init__(
        self,
        upstreams: tuple[Upstreams, ...],
        fallback: tuple[Server, ...],
        *,
        make_socket: MakeSocket = socket.socket,
    ) -> None:
        peers: dict[Server, Peer] = {}  # a server's health is one, for however many domains it is named
        self._by_domain: dict[str, list[Peer]] = {}
        for entry in (*upstreams, *(() if any(not entry.domain for entry in upstreams) else (Upstreams(fallback),))):
            known = self._by_domain.setdefault(entry.domain, [])
            known.extend(peers.setdefault(server, Peer(server)) for server in entry.servers)
        self._make_socket = make_socket
        self._races: dict[tuple[str, int], Race] = {}
        self.counts = Counts()

    def ask(self, name: str, kind: int, then: Then) -> None:
        """`then` is called with what upstream says, now or later; with None if nobody answers in time.

        No trouble of the network's is raised. Flood: too many questions are in flight already. ValueError: the name
        cannot be written.
        """
        key = (name, kind)
        race = self._races.get(key)
        if race:
            self.counts.joined += 1
        else:
            race = self._begin(key)
        race.then(then)

    def close(self) -> None:
        """Ends what is in flight: whoever still waits gets None."""
        for race in list(self._races.values()):
            race.close()

    def _begin(self, key: tuple[str, int]) -> Race:
        if len(self._races) >= IN_FLIGHT_MAX:
            self.counts.floods += 1
            raise Flood(f"{IN_FLIGHT_MAX} questions wait for upstream resolvers: ask again later")
        query = write_query(0, *key, EDNS_PAYLOAD)
        asking = Asking(asyncio.get_running_loop(), *key, query, self._make_socket, self.counts)
        self.counts.questions += 1
        race = Race(asking, self._peers_for(key[0]), partial(self._forget, key))
        if not race.is_over:
            self._races[key] = race
        return race

    def _forget(self, key: tuple[str, int]) -> None:
        self._races.pop(key, None)

    def _peers_for(self, name: str) -> list[Peer]:
        """The servers of the longest domain that covers the name."""
        while name and name not in self._by_domain:
            name = name.partition(".")[2]
        return self._by_domain.get(name, [])
