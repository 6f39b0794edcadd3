"""The gates' listeners in systemd's hands: a restart of the agent loses no question, they wait in the queues."""

import os
import socket
from collections.abc import Mapping, Sequence

from exeat.dns.listeners import Listeners
from exeat.notify import Notifier

_PREFIX = "gate-"


class SystemdKeeping:
    """Stored under `gate-WORKLOAD-NETWORK`. Where systemd does not keep descriptors, nothing is kept."""

    def __init__(self, notifier: Notifier, given: Mapping[str, Sequence[int]]) -> None:
        self._notifier = notifier
        self._given = {name: list(fds) for name, fds in given.items() if name.startswith(_PREFIX)}

    def take(self, workload: int, network: int) -> Sequence[socket.socket]:
        """Those of an agent before this one."""
        return [socket.socket(fileno=fd) for fd in self._given.pop(_name(workload, network), ())]

    def keep(self, workload: int, listeners: Listeners) -> None:
        """Stored anew: systemd drops none that it has already."""
        name = _name(workload, listeners.network)
        self._notifier.forget(name)
        self._notifier.store(name, [one.fileno() for one in listeners.udp + listeners.tcp])

    def drop(self, workload: int, network: int) -> None:
        """The workload, or its namespace, has gone."""
        self._notifier.forget(_name(workload, network))

    def drop_untaken(self) -> None:
        """Of workloads that are no more."""
        for name, fds in self._given.items():
            self._notifier.forget(name)
            for fd in fds:
                os.close(fd)
        self._given.clear()


def _name(workload: int, network: int) -> str:
    return f"{_PREFIX}{workload}-{network}"
