"""`--allow`: what each argument means, and what each refusal says; and what is doubtful about a flag's rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.allow_flag import parse_allow, parse_allow_cidr, warnings_of
from exeat.errors import PolicyError
from exeat.model.policy import Protocol
from unit.rule_words import host


def refusal_of(text: str) -> str:
    """What is said to who gives this to `--allow`, without the flag's name."""
    with pytest.raises(PolicyError) as refusal:
        parse_allow(text)
    assert str(refusal.value).startswith("--allow ")
    assert str(refusal.value).isprintable()
    return str(refusal.value)


@pytest.mark.parametrize(
    ("text", "pattern", "ports", "protocol"),
    [
        ("api.openai.com", "api.openai.com", "443", "tls"),
        ("API.OpenAI.com.", "api.openai.com", "443", "tls"),
        ("bücher.example", "xn--bcher-kva.example", "443", "tls"),
        ("*.example.com:443,8443", "*.example.com", "443 8443", "tls"),
        ("**.example.com/tls", "**.example.com", "443", "tls"),
        ("example.com:8443/tls", "example.com", "8443", "tls"),
        ("db.example.com:5432/tcp", "db.example.com", "5432", "tcp"),
        ("db.example.com:5432,8000-8010/tcp", "db.example.com", "5432 8000-8010", "tcp"),
        ("db.example.com:1-65535/tcp", "db.example.com", "1-65535", "tcp"),
        ("ntp.example.com:123/udp", "ntp.example.com", "123", "udp"),
        ("registry", "registry", "443", "tls"),
    ],
)
def test_the_flag_is_one_host_rule(text: str, pattern: str, ports: str, protocol: str) -> None:
    """Named as it was written, so that a verdict points at the command line."""
    rule = parse_allow(text)
    assert rule.name == f"--allow {text}"
    assert rule.hosts == (host(pattern),)
    assert " ".join(map(str, rule.ports)) == ports
    assert rule.protocol is Protocol(protocol)
    assert rule.cidrs == rule.excepts == ()
    assert not rule.allows_ech


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/8",
        "10.0.0.0/8/tcp",
        "10.0.0.0/8:443/tcp",
        "203.0.113.7",
        "203.0.113.7:443",
        "203.0.113.7/udp",
        "203.0.113.700",
        "127.1",
        "0x7f000001",
        "0.0.0.0/0",
        "2001:db8::1",
        "2001:db8::/32",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "2001:db8::1/udp",
        "https://203.0.113.7/",
        "https://[2001:db8::1]:8443/x",
    ],
)
def test_an_address_is_sent_to_the_other_flag(text: str) -> None:
    """An address has no name to be resolved."""
    assert refusal_of(text).endswith("this is an address or a network and no name: give it to --allow-cidr")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://api.example.com", "api.example.com"),
        ("https://api.example.com/v1/x?y=z#w", "api.example.com"),
        ("HTTPS://me:secret@api.example.com:8443/v1", "api.example.com:8443"),
        ("https://api.example.com:443/", "api.example.com"),
        ("http://example.com/x", "example.com:80/tcp"),
        ("http://example.com:8080", "example.com:8080/tcp"),
        ("ssh://git@example.com", "example.com:22/tcp"),
        ("postgres://me@db.example.com:5432/features", "db.example.com:5432/tcp"),
        ("api.example.com/", "api.example.com"),
        ("api.example.com:8443/", "api.example.com:8443"),
        ("me@api.example.com", "api.example.com"),
        ("me@db.example.com:5432/tcp", "db.example.com:5432/tcp"),
        ("git@example.com:a/b.git", "example.com"),
        ("api.example.com?x", "api.example.com"),
        (" api.example.com", "api.example.com"),
    ],
)
def test_what_holds_a_host_is_answered_with_the_host(text: str, meant: str) -> None:
    """A URL is what people have at hand; what is suggested can be given."""
    assert f"write `{meant}`, if that is meant" in refusal_of(text)
    assert parse_allow(meant).name == f"--allow {meant}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a host name is empty"),
        (":443", "a host name is empty"),
        ("*", "this would allow every name"),
        ("**:443/tcp", "this would allow every name"),
        ("*.com", "covers everybody's hosts"),
        ("a.*.com", "has a wildcard where none may stand"),
        ("a b.com", "this is no host with ports and protocol: write one like"),
        ("a.com b.com", "this is no host with ports and protocol"),
        ("a_b.com", "has an underscore"),
        ("a..com", "has an empty label"),
        ("ftp://a.com/", "this is no host with ports and protocol"),
        ("https://", "this is no host with ports and protocol"),
        ("a.com:443:80", "this is no host with ports and protocol"),
        ("a.com/tcp:80", "this is no host with ports and protocol"),
        ("a.com/path", "`path` is no protocol: write tls, tcp or udp"),
        ("a.com:80/TCP", "`TCP` is no protocol"),
        ("a.com/tcp", "tcp needs the ports: write them as in `a.com:8000-8010/tcp`"),
        ("*.a.com/udp", "udp needs the ports"),
        ("a.com/icmp", "icmp carries no names: give the address to --allow-cidr"),
        ("a.com:", "`` is no port"),
        ("a.com:/tcp", "`` is no port"),
        ("a.com:0", "`0` is no port"),
        ("a.com:65536", "beyond the last port"),
        ("a.com:9-8", "write `8-9`"),
        ("a.com:443,", "`` is no port"),
        ("a.com:443,443", "`443` and `443` overlap"),
        ("a.com:853", "port 853 carries DNS over TLS and QUIC around exeat's resolver and is always denied"),
        ("a.com:443,5355/udp", "port 5355 carries LLMNR"),
        ("a.com\x1b[2J", "cannot be seen"),
        ("a.com\n", "cannot be seen"),
    ],
)
def test_what_could_be_misread_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    """Before anything starts."""
    assert sentence in refusal_of(text)


@given(st.text(max_size=40) | st.text("abc.*0123:/@?#[]-, tcpudls", max_size=30))
def test_any_text_is_a_host_rule_or_a_policy_error(text: str) -> None:
    """Nothing else is raised, and no argument is good for both flags."""
    try:
        rule = parse_allow(text)
    except PolicyError:
        return
    assert len(rule.hosts) == 1
    assert rule.ports
    with pytest.raises(PolicyError):
        parse_allow_cidr(text)


def test_a_flag_is_warned_about_like_a_rule_of_a_file() -> None:
    """Port 53 needs no rule, a wide wildcard is seldom meant; all others are quiet."""
    (gated,) = warnings_of(parse_allow_cidr("203.0.113.7:53/udp"))
    assert gated.startswith("--allow-cidr 203.0.113.7:53/udp: port 53 goes to exeat's own resolver")
    (wide,) = warnings_of(parse_allow("**.example.com"))
    assert wide.startswith("--allow **.example.com: `**.example.com` is wide")
    assert warnings_of(parse_allow("api.example.com:50-60/udp")) == ()
