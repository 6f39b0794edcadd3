"""The programs of tap.c in an instance, and the interfaces that they are attached to.

Where the kernel has tcx by pinned links, else by clsact filters. Everything stands in the kernel, so that the next
agent goes on with it. Kernel quirk: attaching by tcx waits for a grace period of RCU a side (grace_periods.py).
"""

import os
import struct
import threading
from pathlib import Path

from exeat.kernel import libbpf
from exeat.kernel.clsact import ClsactFilters
from exeat.kernel.guest_sides import SIDES
from exeat.kernel.instance import Instance
from exeat.kernel.pins import opened
from exeat.kernel.programs import GUEST_PROGRAMS, GUEST_STEPS
from exeat.kernel.source import fingerprint, joined_source
from exeat.kernel.tcx import TcxLinks, has_tcx

_BUILD = "guests-build-"
_INCOMING = "incoming-guests"
_MAPS = ("interfaces", "guests", "addresses", "flows", "asked", "guest_steps")


def guest_text() -> str:
    """The C text of the guests' programs."""
    return joined_source("tap.c")


def guest_build() -> str:
    """A digest of the guests' programs that this exeat brings for this kernel."""
    return fingerprint(f"{guest_text()}\0{os.uname().release}")


class GuestHooks:
    """Any thread may use it; one of an instance, as its lock is what keeps two from attaching at once."""

    def __init__(self, instance: Instance, *, uses_tcx: bool | None = None) -> None:
        self._instance = instance
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # an upgrade, and the first guest of an agent, may come at once
        self._uses_tcx = uses_tcx
        self._links = TcxLinks(instance)
        self._filters: ClsactFilters | None = None

    @property
    def uses_tcx(self) -> bool:
        """Whether by tcx links, else by clsact filters."""
        if self._uses_tcx is None:
            self._uses_tcx = has_tcx()
        return self._uses_tcx

    @property
    def is_loaded(self) -> bool:
        """Whether programs are there, of whatever build, and all that is known of guests."""
        parts = [f"programs/{program.name}" for program in GUEST_PROGRAMS] + [f"maps/{name}" for name in _MAPS]
        return all((self._instance.directory / part).exists() for part in parts)

    @property
    def build(self) -> str | None:
        """The digest of the programs that are attached; None: none are, or of two builds."""
        marks = [mark.name.removeprefix(_BUILD) for mark in self._instance.directory.glob(f"{_BUILD}*")]
        return marks[0] if self.is_loaded and len(marks) == 1 else None

    def load(self) -> None:
        """Compiles and pins what is not there, or is another build: that is swapped everywhere, with no gap."""
        with self._loading:
            if self.build == guest_build():
                self.hold()
            else:
                self._load()

    def hold(self) -> None:
        """Opens everything that is pinned, so that it outlives its pins as long as this process."""
        self._instance.hold(GUEST_PROGRAMS)
        self._links.hold()

    def attach(self, index: int) -> None:
        """Has an interface's packets judged by both programs; what is attached stays."""
        with self._lock:
            if self.uses_tcx:
                self._links.attach(index)
            else:
                self._clsact().attach(index, self._programs())

    def detach(self, index: int) -> None:
        """Judges an interface no more, whether it is still there or not."""
        with self._lock:
            if self.uses_tcx:
                self._links.detach(index)
            else:
                self._clsact().detach(index)

    def attached(self) -> set[int]:
        """The interfaces that are there, with both programs."""
        with self._lock:
            if self.uses_tcx:
                return self._links.attached()
            return self._clsact().attached({name: libbpf.program_id(fd) for name, fd in self._programs().items()})

    def remnants(self) -> set[int]:
        """The interfaces of which something is left, attached or not: `detach` cleans up."""
        return self._links.indexes() if self.uses_tcx else self._clsact().indexes()

    def _load(self) -> None:
        directory = self._instance.directory
        build = guest_build()
        incoming = self._instance.compile(_INCOMING, GUEST_PROGRAMS, guest_text())
        with self._lock:
            self._bring_in(incoming)
            for mark in directory.glob(f"{_BUILD}*"):
                mark.rmdir()
            (directory / f"{_BUILD}{build}").mkdir(mode=0o700)
            self.hold()

    def _bring_in(self, incoming: Path) -> None:
        """The steps first: an old program may go on to a new one, but a new one never to none."""
        for place, name in enumerate(GUEST_STEPS):
            with opened(incoming / name) as step:
                key, value = struct.pack("=I", place), struct.pack("=I", step)
                libbpf.update(self._instance.map("guest_steps"), key, value)
        for side in SIDES:
            with opened(incoming / side.program) as program:
                if self.uses_tcx:
                    self._links.renew(side, program)
                else:
                    self._clsact().renew(side, program)
        for one in GUEST_PROGRAMS:
            self._instance.take_in(incoming / one.name, one.name)
        incoming.rmdir()

    def _programs(self) -> dict[str, int]:
        return {side.program: self._instance.program(side.program) for side in SIDES}

    def _clsact(self) -> ClsactFilters:
        if self._filters is None:
            self._filters = ClsactFilters(self._instance.directory)
        return self._filters
