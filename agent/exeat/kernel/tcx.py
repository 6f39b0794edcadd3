"""Programs at interfaces by pinned tcx links (Linux 6.6 and later): whoever edits tc does not reach them.

A link outlives its interface as a pin that is attached to nothing. An index may come back, and an interface may move to
another network namespace and keep its own: whether ours is attached is asked of the interface, too.
"""

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
    """Those of one instance, pinned as links/interfaces/<index>-<side>."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def attach(self, index: int) -> None:
        """In front of all other programs there. What is attached already stays; where one cannot be, none is new."""
        directory = self._instance.directory
        done: list[str] = []
        try:
            for side in SIDES:
                name = _name(index, side)
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
        for pin in self._instance.interface_pins():
            if _is_ours(pin):
                self._instance.link(f"interfaces/{pin}", directory)

    def attached(self) -> set[int]:
        """The interfaces that are here and alive, with both programs."""
        directory = self._instance.directory
        pins = set(self._instance.interface_pins())
        return {
            index
            for index in self.indexes()
            if all(f"{index}-{side.word}" in pins and self._is_alive(index, side, directory) for side in SIDES)
        }

    def renew(self, side: Side, program: int) -> None:
        """Puts another program under all of them, each by one exchange."""
        directory = self._instance.directory
        for pin in self._instance.interface_pins():
            if pin.partition("-")[2] == side.word:
                link = self._instance.link(f"interfaces/{pin}", directory)
                if libbpf.link_state(link).interface:
                    libbpf.update_link(link, program)

    def detach(self, index: int) -> None:
        """Whether the interface is still there or not."""
        directory = self._instance.directory
        for side in SIDES:
            self._drop(_name(index, side), directory)

    def indexes(self) -> set[int]:
        """Every index of which something is pinned, alive or not."""
        return {int(pin.partition("-")[0]) for pin in self._instance.interface_pins() if _is_ours(pin)}

    def _is_there(self, index: int, side: Side, directory: Path) -> bool:
        return (directory / "links" / _name(index, side)).exists() and self._is_alive(index, side, directory)

    def _link(self, index: int, side: Side, directory: Path) -> None:
        program = self._instance.program(side.program)
        with short_grace_periods():
            link = libbpf.create_interface_link(program, index, side.tcx)
        self._instance.keep_link(_name(index, side), link, directory)

    def _is_alive(self, index: int, side: Side, directory: Path) -> bool:
        """Whether the pinned link is at the interface that has this index here and now."""
        state = libbpf.link_state(self._instance.link(_name(index, side), directory))
        return state.interface == index and state.program in libbpf.interface_programs(index, side.tcx)

    def _drop(self, name: str, directory: Path) -> None:
        if (directory / "links" / name).exists():
            link = self._instance.link(name, directory)
            with short_grace_periods():
                libbpf.detach_link(link)
        self._instance.drop_link(name, directory)


def _name(index: int, side: Side) -> str:
    return f"interfaces/{index}-{side.word}"


def _is_ours(pin: str) -> bool:
    return pin.partition("-")[2] in {side.word for side in SIDES}
