"""The test hosts as a test sees them: addresses, and what reached them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from bed.certificates import Authority
from bed.network import Network
from bed.services import Asked, Counts, Listening, Manner, Service, Tls, Zone

ANSWER_LIMIT_S = 10.0
END_LIMIT_S = 2.0


@dataclass(frozen=True)
class Host:
    """One host: a name, an IPv4 and an IPv6 address of its own, and what was added (`also`)."""

    name: str
    address4: str
    address6: str
    also: tuple[str, ...]
    _hosts: Hosts

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its addresses."""
        return (self.address4, self.address6, *self.also)

    def count(self) -> Counts:
        """What reached it, after the hosts were quiet for 10 ms. What was sent before the call is in it."""
        return self._hosts.ask("counts", self.name)

    def received(self, connection: int = 0) -> bytes:
        """The raw bytes it read on one connection (in order of acceptance; -1 is the last), before TLS."""
        return self._hosts.ask("received", self.name, connection)

    def datagrams(self) -> list[bytes]:
        """Every UDP payload it read."""
        return self._hosts.ask("datagrams", self.name)

    def questions(self) -> list[Asked]:
        """Every question its Dns server read, in order."""
        return self._hosts.ask("questions", self.name)

    def set_zone(self, zone: Zone) -> None:
        """Let its Dns server answer from this zone instead, from now on."""
        self._hosts.ask("zone", self.name, zone)

    def behave(self, manner: Manner | None, name: str | None = None) -> None:
        """Let its Dns server answer so: for this name, or for all that have no manner of their own.

        None takes the name's manner back; without a name it takes all back.
        """
        self._hosts.ask("manner", self.name, manner, name)

    def reset(self) -> None:
        """Start to count from nothing; connections still open count on."""
        self._hosts.ask("reset", self.name)


class Hosts:
    """The process that serves all hosts of a bed (bed.server), and the hosts by name."""

    def __init__(self, network: Network, authority: Authority) -> None:
        self._network, self._authority = network, authority
        self._by_name: dict[str, Host] = {}
        self._pipe, theirs = Pipe()
        argv = [sys.executable, "-m", "bed.server", str(theirs.fileno())]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = network.hosts.call(
            lambda: subprocess.Popen(argv, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        )
        theirs.close()

    def add(self, name: str, *services: Service, also: tuple[str, ...] = ()) -> Host:
        """Put up a host with these services, HTTPS on 443 by default, at fresh addresses and those in `also`."""
        if name in self._by_name:
            raise ValueError(f"the bed already has a host {name!r}")
        for address in also:
            self._network.add_address(address)
        host = Host(name, *self._network.next_addresses(), also, self)
        self.serve(host, *(services or (Tls(),)))
        self._by_name[name] = host
        return host

    def serve(self, host: Host, *services: Service) -> None:
        """Let a host offer these, too."""
        for service in services:
            chain = key = ""
            if isinstance(service, Tls):
                certificate = self._authority.certificate(*(service.names or (host.name,)))
                chain, key = str(certificate.chain), str(certificate.key)
            self.ask("listen", Listening(host.name, host.addresses, service, chain, key))

    def __getitem__(self, name: str) -> Host:
        """The host of that name."""
        return self._by_name[name]

    def __iter__(self) -> Iterator[Host]:
        """All hosts."""
        return iter(self._by_name.values())

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send the process a command and return its answer, or raise its exception."""
        try:
            self._pipe.send((command, *arguments))
            if not self._pipe.poll(ANSWER_LIMIT_S):
                raise RuntimeError(f"the bed's hosts did not answer {command!r} in {ANSWER_LIMIT_S} s")
            is_good, answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise RuntimeError("the bed's host process has ended; its last words are on stderr") from error
        if not is_good:
            raise answer
        return answer

    def close(self) -> None:
        """End the process: by closing its pipe, and by force if that is not enough."""
        self._pipe.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
