"""Programs at interfaces by pinned tcx links (Linux 6.6 and later): whoever edits tc does not reach them.

A link outlives its interface as a pin that is attached to nothing. An index may come back, and an interface may move to
another network namespace and keep its own: whether ours is attached is asked of the interface, too.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.grace_periods import short_grace_periods
from exeat.kernel.guest_sides import SIDES, Side
from exeat.kernel.instance import Instance

_LOOPBACK_INDEX = 1  # of every network namespace


def has_tcx() -> bool:
    """Whether this kernel knows such links."""
    try:
        libbpf.interface_programs(_LOOPBACK_INDEX, SIDES[0].tcx)
    except KernelError:
        return False
    return True


class TcxLinks:
    """Those of one instance and one purpose, pinned as links/<place>/<index>-<side>."""

    def __init__(self, instance: Instance, place: str = "interfaces", sides: Sequence[Side] = SIDES) -> None:
        self._instance = instance
        self._place = place
        self._sides = sides

    def attach(self, index: int, sides: Sequence[Side] = ()) -> None:
        """In front of all other programs there. What is attached already stays; where one cannot be, none is new."""
        directory = self._instance.directory
        done: list[str] = []
        try:
            for side in sides or self._sides:
                name = self._name(index, side)
                if not self._is_there(index, side, directory):
                    self._drop(name, directory)
                    self._link(index, side, directory)
                    done.append(name)
        except KernelError:
            for name in done:
                self._drop(name, directory)
            raise

    def hold(self) -> None:
        """Opens all that are pinned."""
        directory = self._instance.directory
        for pin in self._pins():
            self._instance.link(f"{self._place}/{pin}", directory)

    def attached(self) -> set[int]:
        """The interfaces that are here and alive, with all programs."""
        directory = self._instance.directory
        pins = set(self._pins())
        return {
            index
            for index in self.indexes()
            if all(f"{index}-{side.word}" in pins and self._is_alive(index, side, directory) for side in self._sides)
        }

    def renew(self, side: Side, program: int) -> None:
        """Puts another program under all of them, each by one exchange."""
        directory = self._instance.directory
        for pin in self._pins():
            if pin.partition("-")[2] == side.word:
                link = self._instance.link(f"{self._place}/{pin}", directory)
                if libbpf.link_state(link).interface:
                    libbpf.update_link(link, program)

    def detach(self, index: int) -> None:
        """Whether the interface is still there or not."""
        directory = self._instance.directory
        for side in self._sides:
            self._drop(self._name(index, side), directory)

    def sweep(self) -> None:
        """Lets go of those whose interface has gone."""
        directory = self._instance.directory
        for pin in self._pins():
            name = f"{self._place}/{pin}"
            if not libbpf.link_state(self._instance.link(name, directory)).interface:
                self._instance.drop_link(name, directory)

    def indexes(self) -> set[int]:
        """Every index of which something is pinned, alive or not."""
        return {int(pin.partition("-")[0]) for pin in self._pins()}

    def _pins(self) -> list[str]:
        words = {side.word for side in self._sides}
        return [pin for pin in self._instance.interface_pins(self._place) if pin.partition("-")[2] in words]

    def _is_there(self, index: int, side: Side, directory: Path) -> bool:
        return (directory / "links" / self._name(index, side)).exists() and self._is_alive(index, side, directory)

    def _link(self, index: int, side: Side, directory: Path) -> None:
        program = self._instance.program(side.program)
        with short_grace_periods():
            link = libbpf.create_interface_link(program, index, side.tcx)
        try:
            self._instance.keep_link(self._name(index, side), link, directory)
        except KernelError:
            os.close(link)
            raise

    def _is_alive(self, index: int, side: Side, directory: Path) -> bool:
        """Whether the pinned link is at the interface that has this index here and now."""
        state = libbpf.link_state(self._instance.link(self._name(index, side), directory))
        return state.interface == index and state.program in libbpf.interface_programs(index, side.tcx)

    def _drop(self, name: str, directory: Path) -> None:
        if (directory / "links" / name).exists():
            link = self._instance.link(name, directory)
            with short_grace_periods():
                libbpf.detach_link(link)
        self._instance.drop_link(name, directory)

    def _name(self, index: int, side: Side) -> str:
        return f"{self._place}/{index}-{side.word}"
