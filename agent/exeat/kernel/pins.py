"""What of an instance is pinned and held open: by that it outlives its pins, and they are put back."""

import os
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from exeat.errors import KernelError
from exeat.kernel import libbpf

_T = TypeVar("_T")
_MAPS = "maps/"


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A pin's file descriptor for as long as it is needed."""
    fd = libbpf.open_pin(str(path))
    try:
        yield fd
    finally:
        os.close(fd)


def remove_pins(directory: Path) -> None:
    """Unpins everything below a directory of the BPF file system, and the directories."""
    for entry in directory.iterdir():
        if entry.is_dir():
            remove_pins(entry)
            entry.rmdir()
        else:
            entry.unlink()


def is_made(incoming: Path, programs: Set[str], maps: Path) -> bool:
    """Whether these programs are there, and use no map but those that are pinned."""
    try:
        known = {_asked(pin, libbpf.map_id) for pin in maps.iterdir()}
        return all(known.issuperset(_asked(incoming / name, libbpf.program_maps)) for name in programs)
    except (KernelError, OSError):
        return False


class Pins:
    """Those of one instance, by their paths below its directory. Any thread may use it."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self.repairs = 0  # how many were put back
        self._held: dict[str, int] = {}
        self._put_back: list[str] = []  # of which nobody was told yet
        self._mending = threading.Lock()

    def open(self, name: str, directory: Path | None = None) -> int:
        """A file descriptor, opened once. `directory`: the instance's, for those who ask for many."""
        if name not in self._held:
            self._held[name] = libbpf.open_pin(str((directory or self._directory()) / name))
        return self._held[name]

    def keep(self, name: str, fd: int) -> None:
        """Has one that is pinned by now, and no more the caller's."""
        self._held[name] = fd

    def drop(self, name: str) -> None:
        """Holds it no more."""
        held = self._held.pop(name, None)
        if held is not None:
            os.close(held)

    def renew(self, name: str) -> None:
        """What is held becomes what is pinned now, under the same number: another thread may be about to use it."""
        held = self._held.get(name)
        if held is not None:
            with opened(self._directory() / name) as fd:
                os.dup2(fd, held, inheritable=False)

    def mend(self) -> list[str]:
        """Puts back what somebody has removed; what that was, since this was asked last."""
        directory = self._directory()
        with self._mending:
            self._pin([name for name in list(self._held) if not (directory / name).exists()])
            put_back, self._put_back = list(dict.fromkeys(self._put_back)), []
        return put_back

    def put_maps_back(self) -> None:
        """The same of maps, also where another map is pinned in place of one that is held."""
        with self._mending:
            self._pin([name for name in list(self._held) if name.startswith(_MAPS) and not self._is_pinned(name)])

    def close(self) -> None:
        """Lets go of all; what is pinned stays."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _is_pinned(self, name: str) -> bool:
        try:
            return _asked(self._directory() / name, libbpf.map_id) == libbpf.map_id(self._held[name])
        except KernelError:
            return False

    def _pin(self, names: list[str]) -> None:
        for name in names:
            path = self._directory() / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            libbpf.pin(self._held[name], str(path))
            self._put_back.append(name)
            self.repairs += 1


def _asked(pin: Path, ask: Callable[[int], _T]) -> _T:
    with opened(pin) as fd:
        return ask(fd)
