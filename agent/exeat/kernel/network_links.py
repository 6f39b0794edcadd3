"""The interfaces of this network namespace, as they come, change and go: what rtnetlink tells."""

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv6Interface

from exeat.kernel import rtnetlink
from exeat.kernel.rtnetlink import Conversation, Refusal, attribute, attributes

_Address = IPv4Interface | IPv6Interface
# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/if_arp.h
_NEW_LINK, _DEL_LINK, _GET_LINK, _NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 16, 17, 18, 20, 21, 22
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_MAC, _NAME, _MASTER, _LINK_INFO, _EXT_MASK = 1, 3, 10, 18, 29
_INFO_KIND = 1
_SKIP_STATS = 1 << 3
_ADDRESS, _LOCAL = 1, 2
_ETHERNET = 1
_UP = 0x1
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS_HEAD = struct.Struct("=BBBBI")  # struct ifaddrmsg
_BUFFER_BYTES = 1 << 21  # some thousand messages: what does not fit is looked up
_RECEIVE_BYTES = 1 << 16
_AT_ONCE = 512  # messages: what else the loop has to do comes in between


@dataclass(frozen=True, slots=True)
class NetworkLink:
    """One interface, as it was last told."""

    index: int
    name: str
    mac: bytes
    is_ethernet: bool
    is_up: bool
    master: int  # index of its bridge, 0: none
    addresses: tuple[_Address, ...]
    kind: str = ""  # veth, bridge ...; a card has none


@dataclass(slots=True)
class LinkNews:
    """What has changed since it was last asked, by index. In `went` and in `came`: another has its index now."""

    came: set[int] = field(default_factory=set)
    went: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)


class NetworkLinks:
    """All of them by index and by name. Belongs to one thread."""

    def __init__(self) -> None:
        self._told = rtnetlink.open_socket(_GROUPS, _BUFFER_BYTES)
        self._told.setblocking(False)
        self._conversation = Conversation()
        self._links: dict[int, NetworkLink] = {}
        self._indexes: dict[str, int] = {}

    def fileno(self) -> int:
        """Readable when something has changed."""
        return self._told.fileno()

    def close(self) -> None:
        """Ends it."""
        self._told.close()
        self._conversation.close()

    def of(self, index: int) -> NetworkLink | None:
        """The interface of an index."""
        return self._links.get(index)

    def named(self, name: str) -> NetworkLink | None:
        """The interface of a name."""
        index = self._indexes.get(name)
        return None if index is None else self._links[index]

    def all(self) -> tuple[NetworkLink, ...]:
        """Every one of them."""
        return tuple(self._links.values())

    def look(self) -> LinkNews:
        """Reads all of them."""
        news = LinkNews()
        mask = attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS))
        seen = {}
        for body in self._conversation.dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + mask):
            link = _link(body)
            seen[link.index] = link
        held = _by_index(self._conversation.dump(_GET_ADDRESS, _ADDRESS_HEAD.pack(0, 0, 0, 0, 0)))
        for index in [index for index in self._links if index not in seen]:
            self._leave(index, news)
        for index, link in seen.items():
            self._enter(replace(link, addresses=_sorted(held.get(index, ()))), news)
        return news

    def read(self) -> LinkNews:
        """What the socket tells; all are read again where it could not hold everything."""
        news = LinkNews()
        for _ in range(_AT_ONCE):
            try:
                data, (sender, _) = self._told.recvfrom(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return _merged(news, self.look())
            if sender == 0:  # the kernel: whoever else may write to us says nothing of interfaces
                for kind, _, _, body in rtnetlink.messages(data):
                    self._hear(kind, body, news)
        return news

    def find(self, name: str) -> LinkNews:
        """Looks at one interface now, by its name, however much of what changed is still to be read."""
        news = LinkNews()
        known = self._indexes.get(name)
        link = self._ask(0, name)
        if known is not None and (link is None or link.index != known):
            self._verify(known, news)
        if link:
            self._enter(link, news)
        return news

    def _ask(self, index: int, name: str = "") -> NetworkLink | None:
        """What the kernel says of one interface, now."""
        body = _LINK.pack(0, 0, index, 0, 0)
        if name:
            if len(name.encode()) > 15:  # noqa: PLR2004 - IFNAMSIZ
                return None
            body += attribute(_NAME, name.encode() + b"\0")
        try:
            answer = self._conversation.ask(_GET_LINK, body + attribute(_EXT_MASK, struct.pack("=I", _SKIP_STATS)))
        except Refusal as refusal:
            if refusal.number == errno.ENODEV:
                return None
            raise
        if answer is None:
            return None
        link = _link(answer)
        held: Iterable[_Address] = ()
        with suppress(Refusal):  # it may go in between
            held = _by_index(self._conversation.dump(_GET_ADDRESS, _ADDRESS_HEAD.pack(0, 0, 0, 0, link.index))).get(
                link.index, ()
            )
        return replace(link, addresses=_sorted(held))

    def _hear(self, kind: int, body: bytes, news: LinkNews) -> None:
        if kind in (_NEW_LINK, _DEL_LINK):
            if _LINK.unpack_from(body)[0] != socket.AF_UNSPEC:
                return  # a bridge, of one of its ports
            link = _link(body)
            before = self._links.get(link.index)
            if kind == _NEW_LINK:
                self._enter(replace(link, addresses=before.addresses if before else ()), news)
            elif before:
                self._leave(link.index, news)
                self._verify(link.index, news)
        elif kind in (_NEW_ADDRESS, _DEL_ADDRESS):
            index, address = _address(body)
            before = self._links.get(index)
            if before:  # else its own message is still to come, or it has gone
                rest = set(before.addresses) - {address}
                self._enter(
                    replace(before, addresses=_sorted(rest | {address} if kind == _NEW_ADDRESS else rest)), news
                )

    def _verify(self, index: int, news: LinkNews) -> None:
        """A message may be older than what was looked up since, or another interface may have the index."""
        link = self._ask(index)
        if link:
            self._enter(link, news)
        elif index in self._links:
            self._leave(index, news)

    def _enter(self, link: NetworkLink, news: LinkNews) -> None:
        before = self._links.get(link.index)
        if before == link:
            return
        if before is None:
            news.came.add(link.index)
        elif link.index not in news.came:
            news.changed.add(link.index)
        if before and before.name != link.name and self._indexes.get(before.name) == link.index:
            del self._indexes[before.name]
        self._links[link.index] = link
        self._indexes[link.name] = link.index

    def _leave(self, index: int, news: LinkNews) -> None:
        link = self._links.pop(index)
        if self._indexes.get(link.name) == index:
            del self._indexes[link.name]
        news.changed.discard(index)
        if index in news.came and index not in news.went:
            news.came.discard(index)  # nobody has heard of it
        else:
            news.came.discard(index)
            news.went.add(index)


def _link(body: bytes) -> NetworkLink:
    _, kind, index, flags, _ = _LINK.unpack_from(body)
    found = attributes(body[_LINK.size :])
    return NetworkLink(
        index,
        found.get(_NAME, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        found.get(_MAC, b""),
        kind == _ETHERNET,
        bool(flags & _UP),
        struct.unpack("=I", found[_MASTER])[0] if _MASTER in found else 0,
        (),
        attributes(found.get(_LINK_INFO, b"")).get(_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace"),
    )


def _address(body: bytes) -> tuple[int, _Address]:
    """The index, and the host's own address there: where a link has two ends, the other one's stands beside it."""
    _, prefix_len, _, _, index = _ADDRESS_HEAD.unpack_from(body)
    found = attributes(body[_ADDRESS_HEAD.size :])
    own = found.get(_LOCAL) or found[_ADDRESS]
    return index, ipaddress.ip_interface((own, prefix_len))


def _by_index(bodies: Iterable[bytes]) -> dict[int, list[_Address]]:
    held: dict[int, list[_Address]] = {}
    for body in bodies:
        index, address = _address(body)
        held.setdefault(index, []).append(address)
    return held


def _sorted(addresses: Iterable[_Address]) -> tuple[_Address, ...]:
    return tuple(sorted(addresses, key=lambda one: (one.version, one.packed, one.network.prefixlen)))


def _merged(first: LinkNews, then: LinkNews) -> LinkNews:
    for index in then.went & first.came - first.went:  # nobody has heard of it
        then.went.discard(index)
        first.came.discard(index)
    came = first.came - then.went | then.came
    went = first.went | then.went
    return LinkNews(came, went, (first.changed | then.changed) - came - went)
