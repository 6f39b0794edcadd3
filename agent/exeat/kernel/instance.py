"""One set of programs and maps in the kernel, known by the directory in which everything of it is pinned.

An agent has one for the whole host; each `exeat run` has one of its own, so that two never share a map or an event.
What is pinned enforces on without us. Directories: maps/, programs/ and links/ below exeat/v<layout>/<name>/; what is
attached to guests' interfaces (tcx.py, clsact.py) in links/interfaces/.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.abi import LAYOUT
from exeat.kernel.clsact import remove_filters
from exeat.kernel.filesystems import bpf_root, mount_point, release_bpf_root
from exeat.kernel.programs import MESSAGE_PROGRAM, PROGRAMS, Program
from exeat.kernel.source import fingerprint, joined_source

_ATTEMPTS = 100
_BUILD = "build-"
_INTERFACES = Path("links/interfaces")
_ESSENTIAL = ("settings", "workloads", "policies", "networks", "ports", "hosts", "stamps", "names", "sockets", "events")


def compile_and_pin(
    map_directory: Path, program_directory: Path, programs: Sequence[Program] = PROGRAMS, text: str | None = None
) -> dict[str, str]:
    """Compiles in a child process, which pins what it loaded; maps that are pinned already are used as they are.

    `text`: another source than the whole of ours. Returns the programs that this kernel refused, and how.
    """
    request = {
        "text": joined_source() if text is None else text,
        "map_directory": str(map_directory),
        "program_directory": str(program_directory),
        "programs": {program.name: (program.program_type, program.attach_type) for program in programs},
    }
    child = subprocess.run(
        [sys.executable, "-m", "exeat.kernel.compile_child"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(child.stdout)
    except json.JSONDecodeError:
        answer = {"error": f"the BPF compiler ended with status {child.returncode}"}
    if "ok" not in answer:
        story = child.stderr.strip().splitlines()
        raise KernelError("\n".join([answer["error"], *(f"  {line}" for line in story[-20:])]))
    return dict(answer["refused"])


@cache
def own_build() -> str:
    """A digest of the programs that this exeat brings for this kernel."""
    return fingerprint(f"{joined_source()}\0{os.uname().release}")


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A pin's file descriptor for as long as it is needed."""
    fd = libbpf.open_pin(str(path))
    try:
        yield fd
    finally:
        os.close(fd)


class Instance:
    """A named instance; nothing is touched before `load`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._pins: dict[str, int] = {}  # what is held, by its path below the directory

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
        directory = self.directory
        for part in ("maps", "programs", "links", "incoming"):
            (directory / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_pins(directory / "incoming")
        refused = compile_and_pin(directory / "maps", directory / "incoming", programs)
        if refused:
            which = ", ".join(f"{name} ({why})" for name, why in refused.items())
            raise KernelError(
                f"this kernel ({os.uname().release}) refused {which}; `exeat doctor` tells what that costs"
            )
        for program in programs:
            link = directory / "links" / program.name
            new = directory / "incoming" / program.name
            with opened(new) as fd:
                if link.exists():
                    with opened(link) as link_fd:
                        libbpf.update_link(link_fd, fd)
                if program.name == MESSAGE_PROGRAM:
                    libbpf.attach_program(fd, self.map("sockets"), program.attach_type)
            self.take_in(new, program.name)
        (directory / "incoming").rmdir()
        for mark in directory.glob(f"{_BUILD}*"):
            mark.rmdir()
        (directory / f"{_BUILD}{own_build()}").mkdir(mode=0o700)  # the BPF file system has no files

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
        is_attached = self._has_links() or bool(self.interface_pins())
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
                self._held(f"links/{program.name}")

    def mend(self, build: str) -> list[str]:
        """Pins again what somebody has unpinned of what is held; what that was. `build` is what is attached."""
        missing = [name for name in list(self._pins) if not (self.directory / name).exists()]
        for name in missing:
            (self.directory / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            libbpf.pin(self._pins[name], str(self.directory / name))
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

    def interface_pins(self) -> list[str]:
        """What is pinned of guests' interfaces, by its name below links/interfaces."""
        pins = self.directory / _INTERFACES
        return [entry.name for entry in pins.iterdir()] if pins.is_dir() else []

    def map(self, name: str) -> int:
        """A map's file descriptor, opened once."""
        return self._held(f"maps/{name}")

    def program(self, name: str) -> int:
        """A program's file descriptor, opened once."""
        return self._held(f"programs/{name}")

    def link(self, name: str, directory: Path | None = None) -> int:
        """A link's file descriptor, opened once. `directory`: ours, for those who ask for many."""
        return self._held(f"links/{name}", directory)

    def keep_link(self, name: str, fd: int, directory: Path) -> None:
        """Pins what is new; its file descriptor is held, and no more the caller's."""
        (directory / "links" / name).parent.mkdir(mode=0o700, exist_ok=True)
        libbpf.pin(fd, str(directory / "links" / name))
        self._pins[f"links/{name}"] = fd

    def drop_link(self, name: str, directory: Path) -> None:
        """Lets go of one for good, held or pinned or neither."""
        held = self._pins.pop(f"links/{name}", None)
        if held is not None:
            os.close(held)
        (directory / "links" / name).unlink(missing_ok=True)

    def take_in(self, incoming: Path, name: str) -> None:
        """A new program takes the place of the one of its name; it is attached wherever that was."""
        incoming.replace(self.directory / "programs" / name)
        self._renew(f"programs/{name}")

    def _has_links(self) -> bool:
        links = self.directory / "links"
        return links.is_dir() and any(entry.name != _INTERFACES.name for entry in links.iterdir())

    def _held(self, name: str, directory: Path | None = None) -> int:
        if name not in self._pins:
            self._pins[name] = libbpf.open_pin(str((directory or self.directory) / name))
        return self._pins[name]

    def _renew(self, name: str) -> None:
        """What is held becomes what is pinned now, under the same number: another thread may be about to use it."""
        held = self._pins.get(name)
        if held is not None:
            with opened(self.directory / name) as fd:
                os.dup2(fd, held, inheritable=False)

    def close(self) -> None:
        """Lets go of the file descriptors; what is pinned stays."""
        for fd in self._pins.values():
            os.close(fd)
        self._pins.clear()

    def remove(self) -> None:
        """Removes every trace of this instance from the kernel."""
        self.close()
        remove_instance(self.name)


def remove_pins(directory: Path) -> None:
    """Unpins everything below a directory of the BPF file system, and the directories."""
    for entry in directory.iterdir():
        if entry.is_dir():
            remove_pins(entry)
            entry.rmdir()
        else:
            entry.unlink()


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
