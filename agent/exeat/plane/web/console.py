"""What all pages share: the plane, and what makes a browser somebody."""

from dataclasses import dataclass, field

from exeat.plane.api.room import Threads
from exeat.plane.parts import Plane
from exeat.plane.web.attempts import Attempts
from exeat.plane.web.proxies import Proxies
from exeat.plane.web.sealing import Seal

_THREADS = 2  # the API has 4; of PostgreSQL's 8 connections, two are left for agents


@dataclass(slots=True)
class Console:
    """The console of one replica."""

    plane: Plane
    name: str  # of the plane, for people
    seal: Seal
    proxies: Proxies
    is_secure: bool  # browsers reach it by TLS only
    host: str  # what browsers call it; empty: by whatever leads to it
    attempts: Attempts = field(default_factory=Attempts)
    threads: Threads = field(default_factory=lambda: Threads(_THREADS, "console"))
    streams: int = 0  # pages that follow the verdicts

    @property
    def cookie(self) -> str:
        """The session's. With the prefix, no other host of the domain can set it."""
        return "__Host-exeat" if self.is_secure else "exeat"
