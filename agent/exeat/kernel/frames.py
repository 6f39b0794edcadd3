"""Programs at interfaces that stop the frames of packet sockets (AF_PACKET, AF_XDP), which pass no hook of a cgroup.

By tcx links, pinned as links/frames/<cookie of a network namespace>/<index>-<side>: Linux 6.6 and later. What is at an
interface stays there when the interface moves to another namespace.
"""

import socket
import threading
from collections.abc import Iterable

from exeat.errors import KernelError
from exeat.kernel.guest_sides import Side
from exeat.kernel.instance import Instance
from exeat.kernel.tcx import TcxLinks, has_tcx

FRAMES_OUT = Side("out", "on_frame_out", 47, 0xFFFFFFF3)
FRAMES_IN = Side("in", "on_frame_in", 46, 0xFFFFFFF2)
_SIDES = (FRAMES_IN, FRAMES_OUT)
_WITH_ANOTHER_END = ("veth", "netkit")
_PLACE = "frames"


class FrameGuard:
    """That of one instance. Any thread may use it. Without tcx it guards nothing, as `exeat doctor` says."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._lock = threading.Lock()
        self._places: dict[int, TcxLinks] = {}
        self.is_possible = has_tcx()

    def attach(self, network: int, index: int, kind: str) -> None:
        """At an interface of this thread's namespace, whose cookie is `network`. What is attached stays."""
        sides = _SIDES if kind in _WITH_ANOTHER_END else (FRAMES_OUT,)
        with self._lock:
            self._links(network).attach(index, sides)

    def attach_to_all(self, network: int) -> None:
        """At every interface of this thread's namespace, of a container: what comes in is not its own."""
        with self._lock:
            for index, _ in socket.if_nameindex():
                try:
                    self._links(network).attach(index, (FRAMES_OUT,))
                except KernelError:
                    if any(index == one for one, _ in socket.if_nameindex()):
                        raise  # else it has just gone

    def sweep(self) -> None:
        """Removes the pins of what is at no interface any more."""
        with self._lock:
            for network in self._networks():
                self._links(network).sweep()
                if not self._instance.interface_pins(f"{_PLACE}/{network}"):
                    self._places.pop(network, None)
                    self._instance.drop_place(f"{_PLACE}/{network}")

    def hold(self) -> None:
        """Opens everything that is pinned, so that it outlives its pins as long as this process."""
        with self._lock:
            for network in self._networks():
                self._links(network).hold()

    def renew(self) -> None:
        """Puts the instance's present programs under all links, each by one exchange."""
        with self._lock:
            for network in self._networks():
                for side in _SIDES:
                    self._links(network).renew(side, self._instance.program(side.program))

    def _networks(self) -> Iterable[int]:
        return [int(name) for name in self._instance.interface_pins(_PLACE)]

    def _links(self, network: int) -> TcxLinks:
        if network not in self._places:
            self._places[network] = TcxLinks(self._instance, f"{_PLACE}/{network}", _SIDES)
        return self._places[network]
