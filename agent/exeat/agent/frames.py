"""Has the frames of packet sockets stopped where they would leave: at the interfaces of the host, and in containers.

There, because what a container sends on its own loopback its kernel would answer or forward, in nobody's name.
"""

import os
import time

from exeat.dns.listeners import inside
from exeat.errors import KernelError
from exeat.kernel.frames import FrameGuard
from exeat.kernel.network_links import LinkNews, NetworkLink, NetworkLinks

_MEND_NS = 30 * 10**9  # the kernel is asked about each interface
_REMEMBERED_MAX = 4096
_SLICE_S = 0.1


class Frames:
    """Belongs to the control loop. `links`: the interfaces of this namespace, which others keep up to date."""

    def __init__(self, guard: FrameGuard, links: NetworkLinks) -> None:
        self._guard = guard
        self._links = links
        self._due: dict[int, None] = {}  # indexes of interfaces
        self._troubles: dict[int, str] = {}
        self._entered: dict[int, tuple[str, ...]] = {}  # by inode: which interfaces were there
        self._mend_due_ns = 0

    @property
    def are_stopped(self) -> bool:
        """Whether this kernel has a place for such programs, and they are at every interface."""
        return self._guard.is_possible and not self._troubles

    @property
    def complaints(self) -> list[str]:
        """Where they are not stopped."""
        return list(self._troubles.values())

    def heed(self, news: LinkNews) -> None:
        """Interfaces came and went."""
        for index in news.went:
            self._troubles.pop(index, None)
        if self._guard.is_possible and news.came:
            self._due |= dict.fromkeys(news.came)
            self.work()

    def work(self) -> None:
        """Attaches to those that wait for it, for a moment: a thousand that come at once must not hold up all else."""
        deadline = time.monotonic() + _SLICE_S
        while self._due and time.monotonic() < deadline:
            index = next(iter(self._due))
            del self._due[index]
            if link := self._links.of(index):
                self._attach(link)

    def enter(self, inode: int, pid: int, *, is_new: bool) -> None:
        """A process of a workload is in that namespace. Raises OSError or KernelError where not all can be attached.

        Where it `is_new`, another may have had its inode before; else it is entered if its interfaces are others now.
        """
        if not self._guard.is_possible:
            return
        names = _interfaces_of(pid)
        if not is_new and self._entered.get(inode) == names:
            return
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_ino != inode:
                return  # it has moved on: the next look finds it there
            inside(fd, self._guard.attach_to_all)
        finally:
            os.close(fd)
        if len(self._entered) >= _REMEMBERED_MAX:
            self._entered.clear()  # each is entered once more
        self._entered[inode] = names

    def mend(self, now_ns: int) -> None:
        """Attaches again where somebody took programs away, and lets go of what has gone."""
        if not self._guard.is_possible or (now_ns < self._mend_due_ns and not self._troubles):
            return
        self._mend_due_ns = now_ns + _MEND_NS
        try:
            if self._guard.sweep():
                self._entered.clear()  # another may have its name
        except KernelError as error:
            self._troubles[0] = f"frames of packet sockets: {error}"
        else:
            self._troubles.pop(0, None)
        self._due |= {link.index: None for link in self._links.all()}
        self.work()

    def _attach(self, link: NetworkLink) -> None:
        try:
            self._guard.attach(link.index, link.kind)
            self._troubles.pop(link.index, None)
        except (KernelError, OSError) as error:
            self._troubles[link.index] = f"frames of packet sockets are not stopped at {link.name}: {error}"


def _interfaces_of(pid: int) -> tuple[str, ...]:
    with open(f"/proc/{pid}/net/dev", encoding="utf-8", errors="replace") as table:
        return tuple(line.partition(":")[0].strip() for line in table if ":" in line)
