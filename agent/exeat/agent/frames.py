"""Has the frames of packet sockets stopped where they would leave: at the interfaces of the host, and in containers.

There, because what a container sends on its own loopback its kernel would answer or forward, in nobody's name.
"""

import os

from exeat.dns.listeners import inside, network_cookie
from exeat.errors import KernelError
from exeat.kernel.frames import FrameGuard
from exeat.kernel.network_links import LinkNews, NetworkLink, NetworkLinks

_MEND_NS = 30 * 10**9  # the kernel is asked about each interface
_REMEMBERED_MAX = 4096


class Frames:
    """Belongs to the control loop. `links`: the interfaces of this namespace, which others keep up to date."""

    def __init__(self, guard: FrameGuard, links: NetworkLinks) -> None:
        self._guard = guard
        self._links = links
        self._network = network_cookie()
        self._troubles: dict[int, str] = {}
        self._entered: dict[int, tuple[str, ...]] = {}  # by inode: which interfaces were there
        self._mend_due_ns = 0

    @property
    def are_stopped(self) -> bool:
        """Whether this kernel has a place for such programs."""
        return self._guard.is_possible

    @property
    def complaints(self) -> list[str]:
        """Where they are not stopped."""
        return list(self._troubles.values())

    def heed(self, news: LinkNews) -> None:
        """Interfaces came and went."""
        for index in news.went:
            self._troubles.pop(index, None)
        for index in news.came if self.are_stopped else ():
            if link := self._links.of(index):
                self._attach(link)

    def enter(self, inode: int, pid: int, *, is_new: bool) -> None:
        """A process of a workload is in that namespace. Raises OSError or KernelError where nothing can be attached.

        Where it `is_new`, another may have had its inode before; else it is entered if its interfaces are others now.
        """
        if not self.are_stopped:
            return
        names = _interfaces_of(pid)
        if not is_new and self._entered.get(inode) == names:
            return
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside(fd, lambda: self._guard.attach_to_all(network_cookie()))
        finally:
            os.close(fd)
        if len(self._entered) >= _REMEMBERED_MAX:
            self._entered.clear()  # each is entered once more
        self._entered[inode] = names

    def mend(self, now_ns: int) -> None:
        """Attaches again where somebody took programs away, and lets go of what has gone."""
        if not self.are_stopped or (now_ns < self._mend_due_ns and not self._troubles):
            return
        self._mend_due_ns = now_ns + _MEND_NS
        self._guard.sweep()
        for link in self._links.all():
            self._attach(link)

    def _attach(self, link: NetworkLink) -> None:
        try:
            self._guard.attach(self._network, link.index, link.kind)
            self._troubles.pop(link.index, None)
        except (KernelError, OSError) as error:
            self._troubles[link.index] = f"frames of packet sockets are not stopped at {link.name}: {error}"


def _interfaces_of(pid: int) -> tuple[str, ...]:
    with open(f"/proc/{pid}/net/dev", encoding="utf-8", errors="replace") as table:
        return tuple(line.partition(":")[0].strip() for line in table if ":" in line)
