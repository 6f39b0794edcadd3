"""Programs at interfaces that stop the frames of packet sockets (AF_PACKET, AF_XDP), which pass no hook of a cgroup.

By tcx links (Linux 6.6 and later), pinned as links/frames/<number of the link>-<side>. What is at an interface stays
there when that moves to another namespace: so an interface is asked what it has, whoever attached it.
"""

import socket
import threading
from collections.abc import Sequence

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.grace_periods import short_grace_periods
from exeat.kernel.guest_sides import Side
from exeat.kernel.instance import Instance
from exeat.kernel.tcx import has_tcx

FRAMES_OUT = Side("out", "on_frame_out", 47, 0xFFFFFFF3)
FRAMES_IN = Side("in", "on_frame_in", 46, 0xFFFFFFF2)
_SIDES = (FRAMES_IN, FRAMES_OUT)
_WITH_ANOTHER_END = ("veth", "netkit")
_LOOPBACK_INDEX = 1  # of every network namespace
_PLACE = "frames"


class FrameGuard:
    """That of one instance. Any thread may use it. Without tcx it guards nothing, as `exeat doctor` says."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._lock = threading.Lock()
        self.is_possible = has_tcx()

    def attach(self, index: int, kind: str) -> None:
        """At an interface of this thread's namespace, the host's. What is attached stays."""
        with self._lock:
            self._attach(index, _SIDES if kind in _WITH_ANOTHER_END else (FRAMES_OUT,))

    def attach_to_all(self) -> None:
        """At every interface of this thread's namespace, a container's; where one fails, at the others all the same.

        What comes in is not its own, but for loopback's.
        """
        faults: list[KernelError] = []
        with self._lock:
            for index, _ in socket.if_nameindex():
                try:
                    self._attach(index, _SIDES if index == _LOOPBACK_INDEX else (FRAMES_OUT,))
                except KernelError as error:
                    if any(index == one for one, _ in socket.if_nameindex()):  # else it has just gone
                        faults.append(error)
        if faults:
            raise faults[0]

    def sweep(self) -> bool:
        """Removes the pins of what is at no interface any more; whether there were some."""
        with self._lock:
            directory = self._instance.directory
            gone = [name for name in self._pins() if not libbpf.link_state(self._instance.link(name)).interface]
            for name in gone:
                self._instance.drop_link(name, directory)
            return bool(gone)

    def hold(self) -> None:
        """Opens everything that is pinned, so that it outlives its pins as long as this process."""
        with self._lock:
            for name in self._pins():
                self._instance.link(name)

    def renew(self) -> None:
        """Puts the instance's present programs where others are, each by one exchange."""
        with self._lock:
            for side in _SIDES:
                program = self._instance.program(side.program)
                number = libbpf.program_id(program)
                for name in self._pins(side):
                    link = self._instance.link(name)
                    state = libbpf.link_state(link)
                    if state.interface and state.program != number:
                        self._exchange(name, link, program)

    def _attach(self, index: int, sides: Sequence[Side]) -> None:
        for side in sides:
            program = self._instance.program(side.program)
            if libbpf.program_id(program) in libbpf.interface_programs(index, side.tcx):
                continue
            with short_grace_periods():
                link = libbpf.create_interface_link(program, index, side.tcx)
            self._instance.keep_link(f"{_PLACE}/{libbpf.link_id(link)}-{side.word}", link, self._instance.directory)

    def _exchange(self, name: str, link: int, program: int) -> None:
        try:
            libbpf.update_link(link, program)
        except KernelError:  # it has gone, or the program is there by another link
            with short_grace_periods():
                libbpf.detach_link(link)
            self._instance.drop_link(name, self._instance.directory)

    def _pins(self, side: Side | None = None) -> list[str]:
        words = [one.word for one in _SIDES if side in (one, None)]
        pins = (pin for pin in self._instance.interface_pins(_PLACE) if pin.partition("-")[2] in words)
        return [f"{_PLACE}/{pin}" for pin in pins]
