"""Where the time goes: how often each program runs for a piece of work, and how long (the kernel's own statistics)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import NamedTuple

from bench.place import OFF, SETTINGS, Place
from bench.rows import Row
from exeat.kernel.programs import PROGRAMS

# linux/bpf.h
_BPF_SYSCALL = {"x86_64": 321}.get(os.uname().machine, 280)
_BPF_OBJ_GET_INFO_BY_FD, _BPF_ENABLE_STATS = 15, 32
_RUN_TIME_AT, _RUN_COUNT_AT = 192, 200


class Runs(NamedTuple):
    """What one program did so far."""

    count: int
    ns: int


def _bpf(command: int, attribute: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attribute, 128)
    result: int = libc.syscall(_BPF_SYSCALL, command, buffer, 128)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command})")
    return result


@contextlib.contextmanager
def statistics_on() -> Iterator[None]:
    """Has the kernel take the time of every program; costs a little itself."""
    fd = _bpf(_BPF_ENABLE_STATS, bytes(4))
    try:
        yield
    finally:
        os.close(fd)


def runs(fd: int) -> Runs:
    """What a program did since it was loaded, as far as statistics were on."""
    info = ctypes.create_string_buffer(256)
    where = fd.to_bytes(4, "little") + len(info).to_bytes(4, "little") + ctypes.addressof(info).to_bytes(8, "little")
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, where)
    word = lambda at: int.from_bytes(info.raw[at : at + 8], "little")  # noqa: E731
    return Runs(word(_RUN_COUNT_AT), word(_RUN_TIME_AT))


def costs(place: Place, rounds: int) -> Iterator[Row]:
    """For each kind of work: runs of each program for one piece, and nanoseconds of each run."""
    works = {
        "connect+close": ("connect 150", 150),
        "first flights": ("first 60", 60),
        "UDP send": ("send 1500", 1500),
        "UDP sendto": ("sendto 1500", 1500),
        "64 KiB, tls rule": ("tls 60", 0),
        "64 KiB, tcp rule": ("tcp 60", 0),
    }
    fds = {program.name: place.guard.instance.program(program.name) for program in PROGRAMS if program.attach_type >= 0}
    with statistics_on():
        for what, (order, pieces) in works.items():
            for setting in SETTINGS:
                if setting == OFF:
                    continue
                client = place.client(setting)
                client.order(order)
                before = {name: runs(fd) for name, fd in fds.items()}
                done = 0
                for _ in range(rounds):
                    count, _ns = client.order(order)
                    done += pieces or count // 65536
                for name, fd in fds.items():
                    count, ns = (now - then for now, then in zip(runs(fd), before[name], strict=True))
                    if count > done / 100:
                        once = ns / done
                        note = f"{count / done:.1f} runs of {ns / count:.0f} ns"
                        yield Row(f"{what}: {setting}: {name}", once, once, once, "ns", note=note)
