"""Interfaces as rtnetlink tells of them, in a network namespace of the test's own."""

import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_interface

import pytest

from bed.namespace import Namespace, missing_capability
from exeat.kernel.network_links import LinkNews, NetworkLink, NetworkLinks


@pytest.fixture
def space() -> Iterator[Namespace]:
    """With nothing but lo."""
    if missing := missing_capability():
        pytest.skip(missing)
    made = Namespace()
    yield made
    made.close()


@pytest.fixture
def links(space: Namespace) -> Iterator[NetworkLinks]:
    """Which have looked once."""
    made = space.call(NetworkLinks)
    made.look()
    made.read()
    yield made
    made.close()


def add(space: Namespace, name: str, *more: str) -> int:
    """A veth with its peer; its index."""
    space.command("ip", "link", "add", name, *more, "type", "veth", "peer", "name", f"{name}p")
    return space.call(lambda: socket.if_nametoindex(name))


def of(links: NetworkLinks, index: int) -> NetworkLink:
    """An interface that is known."""
    found = links.of(index)
    assert found
    return found


def soon(links: NetworkLinks, is_so: Callable[[], bool]) -> LinkNews:
    """Reads until something is so; all news until then."""
    all_news, deadline = LinkNews(), time.monotonic() + 5
    while True:
        news = links.read()
        all_news.came |= news.came
        all_news.went |= news.went
        all_news.changed |= news.changed
        if is_so():
            return all_news
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_comes_and_goes_is_told_by_index(space: Namespace, links: NetworkLinks) -> None:
    """Nothing is told twice; a name leads to the index and back."""
    index = add(space, "tap0")
    peer = space.call(lambda: socket.if_nametoindex("tap0p"))
    news = links.read()
    assert (news.came, news.went) == ({index, peer}, set())
    assert links.named("tap0") == of(links, index)
    assert of(links, index).is_ethernet
    assert not of(links, index).is_up
    assert links.read() == LinkNews()
    space.command("ip", "link", "del", "tap0")
    news = links.read()
    assert (news.came, news.went) == (set(), {index, peer})
    assert (links.named("tap0"), links.of(index)) == (None, None)


def test_what_came_and_went_between_two_looks_is_no_news(space: Namespace, links: NetworkLinks) -> None:
    """Nobody ever heard of it."""
    add(space, "brief")
    space.command("ip", "link", "del", "brief")
    news = links.read()
    assert (news.came, news.went) == (set(), set())


def test_another_interface_of_the_same_index_is_told_as_another(space: Namespace, links: NetworkLinks) -> None:
    """Whoever knew the first one must forget it before it meets the second."""
    index = add(space, "first", "index", "77")
    links.read()
    space.command("ip", "link", "del", "first")
    assert add(space, "second", "index", "77") == index
    news = links.read()
    assert index in news.went
    assert index in news.came
    assert of(links, index).name == "second"
    assert links.named("first") is None


def test_addresses_bridge_state_and_name_are_changes(space: Namespace, links: NetworkLinks) -> None:
    """Each is told for the index that it is of."""
    index = add(space, "tap0")
    space.command("ip", "link", "add", "br0", "type", "bridge")
    bridge = space.call(lambda: socket.if_nametoindex("br0"))
    links.read()
    space.command("ip", "link", "set", "tap0", "master", "br0")
    assert index in soon(links, lambda: of(links, index).master == bridge).changed
    space.command("ip", "link", "set", "tap0", "nomaster")
    news = soon(links, lambda: of(links, index).master == 0)
    assert index in news.changed
    assert news.went == set(), "a port that leaves its bridge is told of in words like those of an end"
    for address in ("198.51.100.1/24", "2001:db8::1/64"):
        space.command("ip", "addr", "add", address, "dev", "br0", "nodad")
        assert bridge in soon(links, lambda a=address: ip_interface(a) in of(links, bridge).addresses).changed
    space.command("ip", "addr", "del", "198.51.100.1/24", "dev", "br0")
    soon(links, lambda: ip_interface("198.51.100.1/24") not in of(links, bridge).addresses)
    assert ip_interface("2001:db8::1/64") in of(links, bridge).addresses
    space.command("ip", "link", "set", "tap0", "address", "02:00:00:00:00:07")
    soon(links, lambda: of(links, index).mac == bytes.fromhex("020000000007"))
    space.command("ip", "link", "set", "tap0", "up")
    soon(links, lambda: of(links, index).is_up)
    space.command("ip", "link", "set", "tap0", "down")
    space.command("ip", "link", "set", "tap0", "name", "other")
    assert index in soon(links, lambda: links.named("other") is not None).changed
    assert links.named("tap0") is None


def test_the_own_end_of_a_link_with_two_is_the_address(space: Namespace, links: NetworkLinks) -> None:
    """The other end's address is a guest's, perhaps."""
    index = add(space, "tap0")
    space.command("ip", "addr", "add", "198.51.100.1", "peer", "198.51.100.9/32", "dev", "tap0")
    soon(links, lambda: bool(links.of(index) and of(links, index).addresses))
    assert [str(one.ip) for one in of(links, index).addresses] == ["198.51.100.1"]


def test_one_is_found_by_its_name_before_its_news_are_read(space: Namespace, links: NetworkLinks) -> None:
    """With its addresses; what is read later says the same and is no news."""
    index = add(space, "tap0")
    space.command("ip", "addr", "add", "198.51.100.1/24", "dev", "tap0")
    assert links.find("tap0") == LinkNews(came={index})
    assert [str(one) for one in of(links, index).addresses] == ["198.51.100.1/24"]
    news = links.read()
    assert index not in news.came | news.went
    assert [str(one) for one in of(links, index).addresses] == ["198.51.100.1/24"]
    assert links.find("nobody") == LinkNews()
    assert links.find("a name that is much too long") == LinkNews()
    space.command("ip", "link", "set", "tap0", "name", "tap1")
    assert links.find("tap0") == LinkNews(changed={index})
    assert (links.named("tap0"), of(links, index).name) == (None, "tap1")
    space.command("ip", "link", "del", "tap1")
    assert links.find("tap1") == LinkNews(went={index})


def test_an_interface_that_moves_away_has_gone(space: Namespace, links: NetworkLinks) -> None:
    """Only this namespace's are known."""
    index = add(space, "tap0")
    links.read()
    elsewhere = Namespace()
    try:
        space.command("ip", "link", "set", "tap0", "netns", elsewhere.path)
        assert index in links.read().went
    finally:
        elsewhere.close()


def test_a_tun_carries_no_frames(space: Namespace, links: NetworkLinks) -> None:
    """Its tap beside it does."""
    for mode in ("tun", "tap"):
        space.command("ip", "tuntap", "add", "dev", f"{mode}0", "mode", mode)
    links.read()
    tun, tap = links.named("tun0"), links.named("tap0")
    assert tun
    assert tap
    assert (tun.is_ethernet, tap.is_ethernet) == (False, True)


def test_what_the_socket_could_not_hold_is_looked_up(space: Namespace) -> None:
    """More messages than there is room for: nothing is missed, and what has gone is told too."""
    links = space.call(NetworkLinks)
    links._told.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it the smallest there is
    links.look()
    index = add(space, "early")
    links.look()
    made = "".join(f"link add v{number} type veth peer name w{number}\n" for number in range(100))
    space.command("ip", "-batch", "-", stdin=f"link del early\n{made}")
    news = links.read()
    assert index in news.went
    assert {link.name for link in links.all()} == {"lo"} | {f"{end}{number}" for end in "vw" for number in range(100)}
    assert len(news.came) == 200
    links.close()
