"""`--allow-cidr`: what each argument means, and what each refusal says."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.allow_flag import parse_allow_cidr
from exeat.errors import PolicyError
from exeat.model.policy import Protocol


@pytest.mark.parametrize(
    ("text", "network", "ports", "protocol"),
    [
        ("203.0.113.0/24:443,8000-8010/tcp", "203.0.113.0/24", "443 8000-8010", "tcp"),
        ("203.0.113.7", "203.0.113.7/32", "1-65535", "tcp"),
        ("203.0.113.7:443", "203.0.113.7/32", "443", "tcp"),
        ("203.0.113.7/udp", "203.0.113.7/32", "1-65535", "udp"),
        ("203.0.113.7:53/udp", "203.0.113.7/32", "53", "udp"),
        ("0.0.0.0/0", "0.0.0.0/0", "1-65535", "tcp"),
        ("10.0.0.0/8/icmp", "10.0.0.0/8", "", "icmp"),
        ("[2001:db8::/32]:443", "2001:db8::/32", "443", "tcp"),
        ("[2001:db8::1:443]", "2001:db8::1:443/128", "1-65535", "tcp"),
        ("[2001:db8::1]:443/udp", "2001:db8::1/128", "443", "udp"),
        ("2001:db8::1/128/udp", "2001:db8::1/128", "1-65535", "udp"),
        ("2001:db8::1:443/128", "2001:db8::1:443/128", "1-65535", "tcp"),
        ("2001:db8::1/udp", "2001:db8::1/128", "1-65535", "udp"),
        ("2001:db8::1", "2001:db8::1/128", "1-65535", "tcp"),
        ("::/0", "::/0", "1-65535", "tcp"),
    ],
)
def test_the_flag_is_one_network_rule(text: str, network: str, ports: str, protocol: str) -> None:
    """Named as it was written, so that a verdict points at the command line."""
    rule = parse_allow_cidr(text)
    assert rule.name == f"--allow-cidr {text}"
    assert rule.cidrs == (ip_network(network),)
    assert " ".join(map(str, rule.ports)) == ports
    assert rule.protocol is Protocol(protocol)
    assert rule.hosts == rule.excepts == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no network"),
        ("example.com", "`example.com` is a name and no network: give it to --allow"),
        ("example.com:443/udp", "give it to --allow"),
        ("example_com", "a name belongs under `hosts`"),
        ("203.0.113.7/24", "write `203.0.113.0/24` for the network"),
        ("203.0.113.0/33", "write a number from 0 to 32 after the slash"),
        ("10.0.0.0/255.0.0.0", "write `10.0.0.0/8`"),
        ("[::ffff:1.2.3.4]", "write it as IPv4: `1.2.3.4/32`"),
        ("[fe80::1%eth0]", "names an interface"),
        ("203.0.113.0/24:443/tls", "tls needs the hosts' names: write --allow HOST"),
        ("203.0.113.0/24/sctp", "`sctp` is no protocol"),
        ("203.0.113.0/24/TCP", "`TCP` is no protocol"),
        ("203.0.113.0/24/", "`` is no protocol"),
        ("203.0.113.0/24:/tcp", "`` is no port"),
        ("203.0.113.0/24:0", "`0` is no port"),
        ("203.0.113.0/24:65536", "beyond the last port"),
        ("203.0.113.0/24:90-80", "write `80-90`"),
        ("203.0.113.0/24:443,443", "`443` and `443` overlap"),
        ("203.0.113.0/24:443,400-500", "`443` and `400-500` overlap"),
        ("203.0.113.0/24:443,", "`` is no port"),
        ("10.0.0.0/8:7/icmp", "icmp has no ports: write `10.0.0.0/8/icmp`"),
        ("2001:db8::1:443", "write `[2001:db8::1]:443` if it does, else `[2001:db8::1:443]`"),
        ("2001:db8::1:443/udp", "may end in a port"),
        ("2001:db8::/32:443", "write one like"),
        ("[10.0.0.0/8", "write one like"),
        ("203.0.113.7:853", "port 853 carries DNS over TLS and QUIC around exeat's resolver and is always denied"),
        ("203.0.113.7:80,5353/udp", "port 5353 carries mDNS"),
        ("1.2.3.4\x1b[2J", "cannot be seen"),
    ],
)
def test_what_could_be_misread_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    """Before anything starts, and naming the flag."""
    with pytest.raises(PolicyError) as refusal:
        parse_allow_cidr(text)
    assert str(refusal.value).startswith("--allow-cidr ")
    assert sentence in str(refusal.value)
    assert str(refusal.value).isprintable()


@given(st.text(max_size=40) | st.text("0123456789abcdef:./[]-,tcpudp", max_size=30))
def test_any_text_is_a_rule_or_a_policy_error(text: str) -> None:
    """Nothing else is raised."""
    try:
        rule = parse_allow_cidr(text)
    except PolicyError:
        return
    assert len(rule.cidrs) == 1
    assert bool(rule.ports) is (rule.protocol is not Protocol.ICMP)
