"""One set of programs and maps in the kernel, known by the directory in which everything of it is pinned.

An agent has one for the whole host; each `exeat run` has one of its own, so that two never share a map or an event.
What is pinned enforces on without us. Directories: maps/, programs/ and links/ below exeat/v<layout>/<name>/; what is
attached to guests' interfaces (tcx.py, clsact.py) in links/interfaces/, and to all (frames.py) in links/frames/.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.abi import LAYOUT
from exeat.kernel.clsact import remove_filters
from exeat.kernel.compiling import compile_and_pin
from exeat.kernel.filesystems import bpf_root, mount_point, release_bpf_root
from exeat.kernel.pins import Pins, is_made, opened, remove_pins
from exeat.kernel.programs import MESSAGE_PROGRAM, PROGRAMS, Program
from exeat.kernel.source import fingerprint, joined_source

_ATTEMPTS = 100
_COMPILATIONS = 3
_BUILD = "build-"
_AT_INTERFACES = ("interfaces", "frames")  # below links/
_ESSENTIAL = ("settings", "workloads", "policies", "networks", "ports", "hosts", "stamps", "names", "sockets", "events")


@cache
def own_build() -> str:
    """A digest of the programs that this exeat brings for this kernel."""
    return fingerprint(f"{joined_source()}\0{os.uname().release}")


class Instance:
    """A named instance; nothing is touched before `load`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pins = Pins(lambda: self.directory)

    @property
    def directory(self) -> Path:
        """Where everything of it is pinned."""
        return bpf_root() / "exeat" / f"v{LAYOUT}" / self.name

    def is_attached(self) -> bool:
        """Whether a program of it has a cgroup to judge, and so could have stamped a socket."""
        maps = self.directory / "maps"
        is_whole = (maps / "stamps").exists() and (maps / "names").exists()  # else its removal was interrupted
        return is_whole and self._has_links()

    def load(self, programs: Sequence[Program] = PROGRAMS) -> None:
        """Compiles and pins programs and maps. A second time: swaps the programs under the links, with no gap."""
        directory, incoming = self.directory, self.compile("incoming", programs)
        for program in programs:
            link = directory / "links" / program.name
            new = incoming / program.name
            with opened(new) as fd:
                if link.exists():
                    with opened(link) as link_fd:
                        libbpf.update_link(link_fd, fd)
                if program.name == MESSAGE_PROGRAM:
                    libbpf.attach_program(fd, self.map("sockets"), program.attach_type)
            self.take_in(new, program.name)
        incoming.rmdir()
        for mark in directory.glob(f"{_BUILD}*"):
            mark.rmdir()
        (directory / f"{_BUILD}{own_build()}").mkdir(mode=0o700)  # the BPF file system has no files

    def compile(self, place: str, programs: Sequence[Program], text: str | None = None) -> Path:
        """Has programs made, and pinned in a directory of their own until they are taken in: that one.

        Somebody may remove pins while the compiler runs. It then makes new maps, which know nobody: so all over again.
        """
        directory, incoming = self.directory, self.directory / place
        text = joined_source() if text is None else text
        for _ in range(_COMPILATIONS):
            for part in ("maps", "programs", "links", place):
                (directory / part).mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_pins(incoming)
            fault, refused, repairs = None, dict[str, str](), self._pins.repairs
            try:
                refused = compile_and_pin(directory / "maps", incoming, programs, text)
            except KernelError as error:
                fault = error
            self._pins.put_maps_back()
            is_disturbed = self._pins.repairs != repairs or not incoming.is_dir()
            if fault and not is_disturbed:
                raise fault
            made = {program.name for program in programs} - refused.keys()
            if is_disturbed or not is_made(incoming, made, directory / "maps"):
                continue
            if refused:
                which = ", ".join(f"{name} ({why})" for name, why in refused.items())
                raise KernelError(
                    f"this kernel ({os.uname().release}) refused {which}; `exeat doctor` tells what that costs"
                )
            return incoming
        raise KernelError("somebody removed pins whenever programs were compiled: those in the kernel stay as they are")

    def build(self) -> str | None:
        """The digest of the programs that are attached; None: none are, or not all."""
        links = self.directory / "links"
        marks = [mark.name.removeprefix(_BUILD) for mark in self.directory.glob(f"{_BUILD}*")]
        is_whole = all((links / program.name).exists() for program in PROGRAMS if program.is_linked)
        return marks[0] if is_whole and len(marks) == 1 else None

    def is_whole(self, programs: Sequence[Program]) -> bool:
        """Whether everything is pinned that can be looked for."""
        parts = [f"programs/{program.name}" for program in programs] + [f"maps/{name}" for name in _ESSENTIAL]
        return all((self.directory / part).exists() for part in parts)

    def has_lost_maps(self) -> bool:
        """Whether programs are attached whose maps cannot be opened any more: new maps would know nobody."""
        maps = self.directory / "maps"
        is_attached = self._has_links() or any(self.interface_pins(place) for place in _AT_INTERFACES)
        return is_attached and not all((maps / name).exists() for name in _ESSENTIAL)

    def set_aside(self) -> None:
        """Makes room for an instance of the same name; what is attached enforces on, like one of another layout."""
        aside = bpf_root() / "exeat" / f"v{LAYOUT}-{time.clock_gettime_ns(time.CLOCK_BOOTTIME)}"
        aside.mkdir(mode=0o700)
        self.directory.rename(aside / self.name)

    def hold(self, programs: Sequence[Program] = PROGRAMS) -> None:
        """Opens everything that is pinned, so that it lives as long as this process even if its pins are removed."""
        for entry in sorted((self.directory / "maps").iterdir()):
            self.map(entry.name)
        for program in programs:
            self.program(program.name)
            if program.is_linked:
                self._pins.open(f"links/{program.name}")

    def mend(self, build: str) -> list[str]:
        """Pins again what somebody has unpinned of what is held; what that was. `build` is what is attached."""
        missing = self._pins.mend()
        if not list(self.directory.glob(f"{_BUILD}*")):
            (self.directory / f"{_BUILD}{build}").mkdir(mode=0o700)
        return missing

    def attach(self, cgroup: Path) -> None:
        """Has every socket hook of a cgroup, and of all below it, run our programs. The backstop comes first.

        What is attached already, by an agent that was killed meanwhile, stays: `load` has renewed it.
        """
        target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for program in PROGRAMS:
                if not program.is_linked or (self.directory / "links" / program.name).exists():
                    continue
                with opened(self.directory / "programs" / program.name) as fd:
                    link = libbpf.create_link(fd, target, program.attach_type)
                    try:
                        libbpf.pin(link, str(self.directory / "links" / program.name))
                    finally:
                        os.close(link)
        finally:
            os.close(target)

    def interface_pins(self, place: str = "interfaces") -> list[str]:
        """What is pinned of interfaces, by its name below links/<place>; "interfaces" are those of guests."""
        pins = self.directory / "links" / place
        return [entry.name for entry in pins.iterdir()] if pins.is_dir() else []

    def map(self, name: str) -> int:
        """A map's file descriptor, opened once."""
        return self._pins.open(f"maps/{name}")

    def program(self, name: str) -> int:
        """A program's file descriptor, opened once."""
        return self._pins.open(f"programs/{name}")

    def link(self, name: str, directory: Path | None = None) -> int:
        """A link's file descriptor, opened once. `directory`: ours, for those who ask for many."""
        return self._pins.open(f"links/{name}", directory)

    def keep_link(self, name: str, fd: int, directory: Path) -> None:
        """Pins what is new; its file descriptor is held, and no more the caller's, also where that fails."""
        try:
            (directory / "links" / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            libbpf.pin(fd, str(directory / "links" / name))
        except (KernelError, OSError):
            os.close(fd)
            raise
        self._pins.keep(f"links/{name}", fd)

    def drop_link(self, name: str, directory: Path) -> None:
        """Lets go of one for good, held or pinned or neither."""
        self._pins.drop(f"links/{name}")
        (directory / "links" / name).unlink(missing_ok=True)

    def take_in(self, incoming: Path, name: str) -> None:
        """A new program takes the place of the one of its name; it is attached wherever that was."""
        incoming.replace(self.directory / "programs" / name)
        self._pins.renew(f"programs/{name}")

    def _has_links(self) -> bool:
        links = self.directory / "links"
        return links.is_dir() and any(entry.name not in _AT_INTERFACES for entry in links.iterdir())

    def close(self) -> None:
        """Lets go of the file descriptors; what is pinned stays."""
        self._pins.close()

    def remove(self) -> None:
        """Removes every trace of this instance from the kernel."""
        self.close()
        remove_instance(self.name)


def _layouts() -> list[Path]:
    root = mount_point("bpf")
    home = root / "exeat" if root else None
    return sorted(home.iterdir()) if home and home.is_dir() else []


def instances() -> list[str]:
    """The names of all instances that are pinned, of whatever layout."""
    return sorted({entry.name for layout in _layouts() for entry in layout.iterdir()})


def instances_of_other_layouts(name: str) -> list[Path]:
    """Where an instance of this name is pinned in another layout: another version of exeat enforced by it."""
    found = [layout / name for layout in _layouts() if layout.name != f"v{LAYOUT}"]
    return [directory for directory in found if directory.is_dir()]


def remove_layout(directory: Path) -> None:
    """Detaches and unpins an instance of another layout."""
    remove_filters(directory)
    remove_pins(directory)
    directory.rmdir()
    with suppress(OSError):  # not empty: another instance lives there
        directory.parent.rmdir()


def remove_instance(name: str) -> None:
    """Detaches and unpins one instance, of whatever layout; the BPF file system goes too if it is ours and empty."""
    for layout in _layouts():
        for attempt in range(_ATTEMPTS):
            try:
                if (layout / name).is_dir():
                    remove_filters(layout / name)
                    remove_pins(layout / name)
                    (layout / name).rmdir()
                break
            except OSError:  # a compiler whose parent was killed still pins, or somebody else removes it too
                if attempt == _ATTEMPTS - 1:
                    raise
        with suppress(OSError):  # not empty: another instance lives there
            layout.rmdir()
            layout.parent.rmdir()
    release_bpf_root()
