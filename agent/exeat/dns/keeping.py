"""Who holds a gate's listeners while no gate does."""

import socket
from collections.abc import Sequence
from typing import Protocol

from exeat.dns.listeners import Listeners


class Keeping(Protocol):
    """Somebody who holds listeners while no agent runs, so that questions wait in their queues."""

    def take(self, workload: int, network: int) -> Sequence[socket.socket]:
        """Those that were kept, once; none if there are none."""

    def keep(self, workload: int, listeners: Listeners) -> None:
        """From now on they are kept."""

    def drop(self, workload: int, network: int) -> None:
        """And now no more."""


class NothingKept:
    """Where nobody does: a question that finds no gate is refused."""

    def take(self, workload: int, network: int) -> Sequence[socket.socket]:
        """None."""
        return ()

    def keep(self, workload: int, listeners: Listeners) -> None:
        """They end with their gate."""

    def drop(self, workload: int, network: int) -> None:
        """There is nothing to drop."""
