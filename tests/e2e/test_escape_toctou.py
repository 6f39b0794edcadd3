"""Pages that still change after they were judged: sendfile, splice, vmsplice and MSG_ZEROCOPY hand the kernel a page,
and a segment that is lost on the line is read from it again. A socket in the sockhash copies first."""

import ctypes
import mmap
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from bed import Bed, Host, call_in
from e2e.escapes import ALLOWED_NAME, hello, hosts_drop, judged, rules, tcp
from e2e.guard import Guard

MSG_ZEROCOPY, SO_ZEROCOPY, SPLICE_F_GIFT = 0x4000000, 60, 8
libc = ctypes.CDLL(None, use_errno=True)


class Page:
    """A shared page of a file, with something in it."""

    def __init__(self, data: bytes) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the page
        self.file.truncate(mmap.PAGESIZE)
        self.map = mmap.mmap(self.file.fileno(), mmap.PAGESIZE)
        self.map[: len(data)] = data
        self.size = len(data)

    @property
    def address(self) -> int:
        """Where it is mapped."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.map))


def by_sendfile(sock: socket.socket, page: Page) -> int:
    """From the page cache."""
    return os.sendfile(sock.fileno(), page.file.fileno(), 0, page.size)


def by_splice(sock: socket.socket, page: Page) -> int:
    """From the page cache, by way of a pipe."""
    reader, writer = os.pipe()
    os.splice(page.file.fileno(), writer, page.size, offset_src=0)
    return os.splice(reader, sock.fileno(), page.size)


def by_vmsplice(sock: socket.socket, page: Page) -> int:
    """From memory that the program gives away and keeps, as byedpi does."""
    reader, writer = os.pipe()
    vector = (ctypes.c_uint64 * 2)(page.address, page.size)
    assert libc.vmsplice(writer, vector, 1, SPLICE_F_GIFT) == page.size
    return os.splice(reader, sock.fileno(), page.size)


def by_zerocopy(sock: socket.socket, page: Page) -> int:
    """From memory, by request."""
    sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    return sock.send(memoryview(page.map)[: page.size], MSG_ZEROCOPY)


WAYS: dict[str, Callable[[socket.socket, Page], int]] = {
    "sendfile": by_sendfile,
    "splice": by_splice,
    "vmsplice": by_vmsplice,
    "MSG_ZEROCOPY": by_zerocopy,
}


def attack(bed: Bed, address: str, way: str, first: bytes, second: bytes, cgroup: Any) -> int:
    """Sends `first`, whose segments get lost, and writes `second` over it before TCP sends it again."""

    def run() -> int:
        page = Page(first)
        sock = tcp(address)
        sock.settimeout(3)
        sock.connect((address, 8443))
        sock.settimeout(None)
        drops.set()
        time.sleep(0.1)  # TCP sends again after 200 ms, and the test mends the line after 150
        sent = WAYS[way](sock, page)
        page.map[: len(second)] = second
        time.sleep(1)
        return sent

    drops = _Flag()
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(call_in(bed, run, cgroup=cgroup)))
    thread.start()
    drops.wait()
    with hosts_drop(bed, "tcp dport 8443"):
        time.sleep(0.25)
    thread.join()
    return result[0]


class _Flag:
    """An event between processes."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()

    def set(self) -> None:
        os.write(self._writer, b".")

    def wait(self) -> None:
        os.read(self._reader, 1)


@pytest.mark.parametrize("way", WAYS)
def test_a_page_rewritten_after_the_verdict_changes_nothing(guard: Guard, bed: Bed, good: Host, way: str) -> None:
    """What the server reads is what was judged, although its first transmission was lost."""
    ours, theirs = hello("good.test"), hello("evil.test")
    assert len(ours) == len(theirs)
    with guard.workload(*rules(good)) as w, judged(w, ALLOWED_NAME):
        assert attack(bed, good.address4, way, ours, theirs, w.cgroup) == len(ours)
    assert good.received() == ours


def test_without_the_sockhash_the_rewritten_page_is_what_arrives(guard: Guard, bed: Bed, good: Host) -> None:
    """The twin, outside: the attack works, by at least one of the ways."""
    ours, theirs = hello("good.test"), hello("evil.test")
    read = []
    for way in WAYS:
        good.reset()
        assert attack(bed, good.address4, way, ours, theirs, guard.top) == len(ours)
        read.append(good.received())
    assert theirs in read
