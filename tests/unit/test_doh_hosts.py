"""The list of hosts that resolve names over HTTPS: as it must be written, and how it is found by what is above."""

from importlib.resources import files

import pytest

from exeat.core.doh_hosts import DohHosts, ancestors, known_doh_hosts
from exeat.core.names import parse_host_pattern
from exeat.model.names import HostPattern, PatternKind
from unit.naive_judge import is_doh
from unit.rule_words import host

LINES = files("exeat.core").joinpath("doh_hosts.txt").read_text(encoding="ascii").splitlines()
NAMES = [line for line in LINES if line and not line.startswith("#")]


def test_every_line_is_what_a_policy_would_write() -> None:
    """The loader takes them as they are, so they must be canonical: no blanks, no upper case, no public suffix."""
    assert [str(parse_host_pattern(line)) for line in NAMES] == NAMES


def test_the_list_says_where_it_comes_from_and_when() -> None:
    """A list that nobody can check against its source grows old unseen."""
    head = " ".join(line for line in LINES if line.startswith("#"))
    assert "https://github.com/curl/curl/wiki/DNS-over-HTTPS" in head
    assert "2026" in head


def test_no_line_says_what_another_says() -> None:
    """Neither twice, nor a name inside a domain that is closed as a whole."""
    assert len(set(NAMES)) == len(NAMES)
    suffixes = {line.removeprefix("**.") for line in NAMES if line.startswith("**.")}
    names = [line.removeprefix("**.") for line in NAMES]
    assert [name for name in names if any(above in suffixes for above in ancestors(name))] == []


def test_lines_are_ordered_from_the_last_label() -> None:
    """One provider's names stand together, and a new one has one place."""
    keys = [(line.removeprefix("**.").split(".")[::-1], line.startswith("**.")) for line in NAMES]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    "name",
    [
        *("dns.google", "cloudflare-dns.com", "mozilla.cloudflare-dns.com", "one.one.one.one", "dns.quad9.net"),
        *("doh.opendns.com", "dns.nextdns.io", "abc123.dns.nextdns.io", "abc.cloudflare-gateway.com"),
        *("dns.adguard-dns.com", "abc.d.adguard-dns.com", "abc.dns.controld.com", "doh.mullvad.net", "mask.icloud.com"),
    ],
)
def test_the_well_known_ones_are_covered(name: str) -> None:
    """Those that browsers and systems come with, and customers' own names."""
    assert known_doh_hosts().covers(name)


@pytest.mark.parametrize(
    "name", ["google", "www.google", "xdns.google", "a.dns.google", "nextdns.io", "www.cloudflare.com", "icloud.com"]
)
def test_their_neighbours_are_not(name: str) -> None:
    """A name in the list closes itself alone."""
    assert not known_doh_hosts().covers(name)


def test_the_index_covers_what_the_lines_match() -> None:
    """Each line's own name, one below it and one beside it."""
    for line in NAMES:
        name = line.removeprefix("**.")
        for near in (name, f"x.{name}", f"y.x.{name}", f"x{name}", name.partition(".")[2]):
            assert known_doh_hosts().covers(near) == is_doh(near), near


def test_names_and_suffixes_are_found_by_what_is_above_them() -> None:
    """At any depth, or one label below."""
    hosts = DohHosts.of(map(host, ("dns.a.com", "x.dns.a.com", "**.my.a.com", "b.com")))
    assert sorted(hosts.names_below("a.com")) == ["dns.a.com", "x.dns.a.com"]
    assert list(hosts.children("a.com")) == ["dns.a.com"]
    assert hosts.suffixes_below("a.com") == ("my.a.com",)
    assert [hosts.closing(suffix) for suffix in ("my.a.com", "z.my.a.com", "a.com")] == ["my.a.com", "my.a.com", None]
    assert (hosts.names_below("c.com"), hosts.suffixes_below("my.a.com")) == ((), ())


def test_a_subtree_is_closed_as_a_whole_or_not_at_all() -> None:
    """`*.` would leave deeper names open, which no trie key could say beside the wildcard above."""
    with pytest.raises(ValueError, match="closes no whole subtree"):
        DohHosts.of([HostPattern(PatternKind.ONE_LABEL, "a.com")])
