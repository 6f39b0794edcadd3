"""Programs at interfaces by filters of a clsact qdisc: for kernels without tcx (before 6.6).

A filter lives as long as its interface, and is replaced in place. Its name says whose it is. A directory named
links/interfaces/<index>-clsact remembers which interfaces have some: the BPF file system has no files. Whoever edits tc
can remove them, which GuestHooks.attached notices.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from exeat.errors import KernelError
from exeat.kernel import libbpf
from exeat.kernel.guest_sides import SIDES, Side
from exeat.kernel.rtnetlink import CREATE, EXCLUSIVE, REPLACE, Conversation, Refusal, attribute, attributes

# linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
_NEW_QDISC, _DEL_QDISC, _NEW_FILTER, _DEL_FILTER, _GET_FILTER = 36, 37, 44, 45, 46
_CLSACT, _CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
_KIND, _OPTIONS = 1, 2
_FD, _NAME, _FLAGS, _ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_PRIORITY = 1
_ALL_PROTOCOLS = socket.htons(0x0003)  # ETH_P_ALL
_MESSAGE = struct.Struct("=BxxxiIII")  # struct tcmsg
_GONE = (errno.ENODEV, errno.ENOENT, errno.EINVAL)  # the interface, its qdisc, or the filter
_MARK, _MADE = "clsact", "clsact-made"


@dataclass(frozen=True, slots=True)
class _Filter:
    info: int  # priority and protocol
    handle: int
    name: str
    program: int


class ClsactFilters:
    """Those of one instance, known by its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._conversation = Conversation()

    def close(self) -> None:
        """Lets go of the socket."""
        self._conversation.close()

    def attach(self, index: int, programs: Mapping[str, int]) -> None:
        """In front of all other filters of the first priority; in place of those of ours that are there."""
        mark = self._marks / f"{index}-{_MARK}"
        is_new = not mark.exists()
        mark.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._conversation.order(_NEW_QDISC, CREATE | EXCLUSIVE, _qdisc(index))
            (self._marks / f"{index}-{_MADE}").mkdir(mode=0o700, exist_ok=True)
        except Refusal as refusal:
            if refusal.number != errno.EEXIST:
                self.detach(index)  # it has gone
                raise KernelError(f"cannot give the interface {index} a clsact qdisc: {refusal}") from refusal
        try:
            for side in SIDES:
                self._put(index, side, programs[side.program], self._of_ours(index, side))
        except Refusal as refusal:
            if is_new:
                self.detach(index)
            raise KernelError(
                f"cannot attach a filter to the interface {index}: {refusal}; where an ingress qdisc stands in the "
                "place of clsact, or a filter of another kind has priority 1, remove that"
            ) from refusal

    def attached(self, programs: Mapping[str, int]) -> set[int]:
        """The interfaces that have both filters of ours, with these programs, by their numbers in the kernel."""
        return {
            index
            for index in self.indexes()
            if all(
                (present := self._of_ours(index, side)) and present.program == programs[side.program] for side in SIDES
            )
        }

    def renew(self, side: Side, program: int) -> None:
        """Puts another program into all of them, each by one exchange."""
        for index in self.indexes():
            if present := self._of_ours(index, side):
                self._put(index, side, program, present)

    def detach(self, index: int, programs: frozenset[int] = frozenset()) -> None:
        """Removes the filters of ours, and those with one of these programs; and the qdisc, if we made it."""
        if not (self._marks / f"{index}-{_MARK}").exists():
            return
        left = 0
        for side in SIDES:
            for one in self._filters(index, side):
                if one.name == self._name(side) or one.program in programs:
                    self._remove(_DEL_FILTER, _MESSAGE.pack(0, index, one.handle, side.clsact, one.info))
                else:
                    left += 1
        made = self._marks / f"{index}-{_MADE}"
        if made.exists():
            if not left:
                self._remove(_DEL_QDISC, _qdisc(index))
            made.rmdir()
        (self._marks / f"{index}-{_MARK}").rmdir()

    def indexes(self) -> set[int]:
        """Every interface that has some, or had when it was last seen."""
        if not self._marks.is_dir():
            return set()
        marks = (entry.name.partition("-") for entry in self._marks.iterdir())
        return {int(number) for number, _, word in marks if word == _MARK}

    @property
    def _marks(self) -> Path:
        return self._directory / "links" / "interfaces"

    def _name(self, side: Side) -> str:
        """By layout and name of the instance: others may have filters there, too."""
        return f"exeat/{self._directory.parent.name}/{self._directory.name}/{side.program}"

    def _of_ours(self, index: int, side: Side) -> _Filter | None:
        return next((one for one in self._filters(index, side) if one.name == self._name(side)), None)

    def _put(self, index: int, side: Side, program: int, present: _Filter | None) -> None:
        options = attribute(_FD, struct.pack("=I", program)) + attribute(_NAME, self._name(side).encode() + b"\0")
        options += attribute(_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        info = present.info if present else _PRIORITY << 16 | _ALL_PROTOCOLS
        body = _MESSAGE.pack(0, index, present.handle if present else 0, side.clsact, info)
        body += attribute(_KIND, b"bpf\0") + attribute(_OPTIONS, options)
        self._conversation.order(_NEW_FILTER, CREATE | (REPLACE if present else 0), body)

    def _filters(self, index: int, side: Side) -> Iterator[_Filter]:
        try:
            bodies = self._conversation.dump(_GET_FILTER, _MESSAGE.pack(0, index, 0, side.clsact, 0))
        except Refusal as refusal:
            if refusal.number not in _GONE:
                raise
            return
        for body in bodies:
            _, _, handle, _, info = _MESSAGE.unpack_from(body)
            found = attributes(body[_MESSAGE.size :])
            options = attributes(found.get(_OPTIONS, b""))
            if handle and found.get(_KIND) == b"bpf\0" and _ID in options:
                name = options.get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
                yield _Filter(info, handle, name, struct.unpack("=I", options[_ID])[0])

    def _remove(self, kind: int, body: bytes) -> None:
        try:
            self._conversation.order(kind, 0, body)
        except Refusal as refusal:
            if refusal.number not in _GONE:
                raise


def _qdisc(index: int) -> bytes:
    return _MESSAGE.pack(0, index, _CLSACT_HANDLE, _CLSACT, 0) + attribute(_KIND, b"clsact\0")


def remove_filters(directory: Path) -> None:
    """Takes the filters of an instance off all interfaces: with the pins alone they would stay."""
    filters = ClsactFilters(directory)
    try:
        if indexes := filters.indexes():
            programs = frozenset(_pinned_programs(directory))
            for index in indexes:
                filters.detach(index, programs)
    finally:
        filters.close()


def _pinned_programs(directory: Path) -> Iterator[int]:
    for pin in directory.glob("*/on_guest_*"):
        fd = libbpf.open_pin(str(pin))
        try:
            yield libbpf.program_id(fd)
        finally:
            os.close(fd)
