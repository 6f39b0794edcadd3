"""Egress rules: entries that could be misread, and fields that do not fit together."""

from ipaddress import ip_network

import pytest

from exeat.model.policy import PortRange, Protocol, Rule
from unit.policy_words import HEAD, RULES_HEAD, problems_of, read, read_rules, the_problem_of, the_problem_of_rules
from unit.rule_words import host

# Hosts, networks, ports


@pytest.mark.parametrize("bare", ["no", "NO", "yes", "on", "off", "y", "true", "False", "~", "null"])
def test_a_bare_yaml_boolean_is_no_host(bare: str) -> None:
    """Half of all YAML readers would see false where Norway was meant; in quotes it is a name."""
    problem = the_problem_of_rules(f"  - name: a\n    hosts:\n    - a.com\n    - {bare}\n")
    assert problem.startswith("9: a host is ")
    assert problem.endswith("write what you mean, in quotes")
    if bare.isalpha():
        assert read_rules(f'  - name: a\n    hosts: ["{bare}"]\n')[0].hosts == (host(bare.lower()),)


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ("hosts: a.com", "`hosts` is `a.com`: write a list"),
        ("hosts: []", "`hosts` is an empty list"),
        ("hosts: [[a.com]]", "a host is a list: write one value"),
        ("hosts: [443]", "`443` ends in a number"),
        ('hosts: ["*.com"]', "`*.com` covers everybody's hosts"),
        ("hosts: [10.0.0.1]", "`10.0.0.1` is an address and no name: write it under `cidrs`"),
        ("hosts: ['a.com:443']", "`a.com:443` is more than a name: write only the host: `a.com`"),
        ("hosts: [a.com], ports: ['443']", "a port is text: write 443 without quotes"),
        ("hosts: [a.com], ports: 443", "`ports` is `443`: write a list"),
        ("hosts: [a.com], ports: [0]", "a port is `0`: write a number from 1 to 65535"),
        ("hosts: [a.com], ports: [65536]", "a port is `65536`: write a number from 1 to 65535"),
        ("hosts: [a.com], ports: [-1]", "a port is `-1`: write a number"),
        ("hosts: [a.com], ports: [0443]", "a port is `0443`: write a number from 1 to 65535 in decimal digits"),
        ("hosts: [a.com], ports: [https]", "a port is `https`: write a number"),
        ("hosts: [a.com], ports: ['1-65536']", "`1-65536` is beyond the last port"),
        ("hosts: [a.com], ports: ['0-9']", "`0-9` is no port"),
        ("hosts: [a.com], ports: [9-8]", "`9-8` runs backwards: write `8-9`"),
        ("hosts: [a.com], ports: [443, 400-500]", "`443` and `400-500` overlap"),
        ("hosts: [a.com], ports: [443, 443]", "`443` and `443` overlap"),
        ("hosts: [a.com], ech: true", "`ech` is `true`; write one of deny, allow"),
        ("hosts: [a.com], protocol: https", "`protocol` is `https`; "),
        ("hosts: [a.com], protocol: TLS", "`protocol` is `TLS`; did you mean `tls`?"),
        ("host: [a.com]", "`host` is no field of an egress rule; did you mean `hosts`?"),
        ("hosts: [a.com], to: b", "`to` is no field of an egress rule; there are: name, hosts"),
        ("hosts: [a.com], cidrs: [10.0.0.1/8]", "`10.0.0.1/8` has bits set beyond /8: write `10.0.0.0/8`"),
        ("hosts: [a.com], cidrs: [10.0.0.0/33]", "`10.0.0.0/33` has no prefix length that can be read"),
        ("hosts: [a.com], cidrs: [10.0.0.0/08]", "`10.0.0.0/08` has no prefix length that can be read"),
        ("hosts: [a.com], cidrs: [10.0.0.0/255.0.0.0]", "`10.0.0.0/255.0.0.0` has no prefix length that can be read"),
        ("hosts: [a.com], cidrs: [b.com]", "`b.com` is no network"),
        ("hosts: [a.com], cidrs: [010.0.0.1]", "`010.0.0.1` is no network"),
        ("hosts: [a.com], cidrs: ['::ffff:10.0.0.0/104']", "`::ffff:10.0.0.0/104` is IPv4 in IPv6's clothes: write"),
        ("hosts: [a.com], cidrs: ['fe80::1%eth0']", "`fe80::1%eth0` names an interface"),
    ],
)
def test_an_entry_that_could_be_misread_is_refused(field: str, problem: str) -> None:
    """With what to write instead."""
    assert the_problem_of_rules(f"  - {{name: a, {field}}}\n").startswith(f"6: {problem}")


@pytest.mark.parametrize(
    ("cidrs", "excepts", "problem"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", "`except` 10.0.0.0/8 takes nothing away"),
        ("10.0.0.0/8", "11.0.0.0/24", "`except` 11.0.0.0/24 takes nothing away"),
        ("10.0.0.0/8", "0.0.0.0/0", "`except` 0.0.0.0/0 takes nothing away"),
        ("10.0.0.0/8", "2001:db8::/32", "`except` 2001:db8::/32 takes nothing away"),
        ("10.0.0.0/8", "10.1.0.0/16, 10.1.2.0/24", "`except` 10.1.2.0/24 lies in 10.1.0.0/16"),
        ("10.0.0.0/8", "10.1.2.0/24, 10.1.0.0/16", "`except` 10.1.2.0/24 lies in 10.1.0.0/16"),
        ("10.0.0.0/8", "10.1.0.0/16, 10.1.0.0/16", "`except` 10.1.0.0/16 is written twice"),
    ],
)
def test_an_exception_lies_inside_its_rule_and_outside_the_others(cidrs: str, excepts: str, problem: str) -> None:
    """Otherwise it says less than its author believes."""
    text = f"  - name: a\n    protocol: icmp\n    cidrs: ['{cidrs}']\n    except: [{excepts}]\n"
    if "takes nothing" in problem and cidrs == excepts or "0.0.0.0/0" in excepts:
        first, last = problems_of(RULES_HEAD + text)  # the network inside it opens nothing either
        assert first.startswith(f"8: {cidrs} opens nothing, because the rule excepts {excepts}")
        assert last.startswith(f"9: {problem}")
    else:
        assert the_problem_of_rules(text).startswith(f"9: {problem}")


def test_a_network_inside_an_exception_of_its_own_rule_is_refused() -> None:
    """The exception wins, so the network would open nothing."""
    text = "  - name: a\n    protocol: icmp\n    cidrs: [10.0.0.0/8, 10.1.2.0/24]\n    except: [10.1.0.0/16]\n"
    assert the_problem_of_rules(text).startswith("8: 10.1.2.0/24 opens nothing, because the rule excepts 10.1.0.0/16")


# What a rule means


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("cidrs: [10.0.0.0/8]", "a tls rule with `cidrs` alone names nobody whom a ClientHello could ask for"),
        ("ports: [443]", "the rule names no destination: write `hosts` or `cidrs`"),
        ("protocol: icmp", "the rule names no destination: write `cidrs`"),
        ("protocol: icmp, hosts: [a.com]", "icmp carries no names"),
        ("protocol: icmp, cidrs: [10.0.0.0/8], ports: [7]", "icmp has no ports"),
        ("protocol: icmp, cidrs: [10.0.0.0/8], ech: deny", "`ech` speaks of tls"),
        ("protocol: tcp, cidrs: [10.0.0.0/8]", 'a tcp rule has no `ports`: write `ports: ["1-65535"]`'),
        ("protocol: udp, hosts: [a.com]", 'a udp rule has no `ports`: write `ports: ["1-65535"]`'),
        ("protocol: tcp, cidrs: [10.0.0.0/8], hosts: [a.com], ports: [1]", "`hosts` and `cidrs` in one tcp rule"),
        ("protocol: udp, cidrs: [10.0.0.0/8], hosts: [a.com], ports: [1]", "`hosts` and `cidrs` in one udp rule"),
        ("hosts: [a.com], except: [10.0.0.0/8]", "`except` takes from the rule's `cidrs`"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(fields: str, problem: str) -> None:
    """Each field alone would be right."""
    assert the_problem_of_rules(f"  - {{name: a, {fields}}}\n").startswith(f"6: {problem}")


@pytest.mark.parametrize(
    ("fields", "protocol", "ports"),
    [
        ("hosts: [a.com]", Protocol.TLS, (PortRange(443, 443),)),
        ("hosts: [a.com], ports: [8443]", Protocol.TLS, (PortRange(8443, 8443),)),
        ("hosts: [a.com], ports: [5432], protocol: tcp", Protocol.TCP, (PortRange(5432, 5432),)),
        ("hosts: [a.com], ports: [123], protocol: udp", Protocol.UDP, (PortRange(123, 123),)),
    ],
)
def test_hosts_need_no_networks(fields: str, protocol: Protocol, ports: tuple[PortRange, ...]) -> None:
    """exeat's own resolver says at which addresses they are."""
    assert read_rules(f"  - {{name: a, {fields}}}\n") == (Rule("a", protocol, hosts=(host("a.com"),), ports=ports),)


def test_a_tls_rule_may_have_hosts_and_networks() -> None:
    """Any address in the networks, and this name."""
    (rule,) = read_rules("  - {name: a, hosts: [a.com], cidrs: [10.0.0.0/8]}\n")
    assert (rule.hosts, rule.cidrs) == ((host("a.com"),), (ip_network("10.0.0.0/8"),))


# Ports that carry names


@pytest.mark.parametrize(
    ("port", "what"),
    [("853", "DNS over TLS and QUIC"), ("5353", "mDNS"), ("5355", "LLMNR"), ("137", "NetBIOS"), ("853-853", "DNS")],
)
@pytest.mark.parametrize("protocol", ["tls", "tcp", "udp"])
def test_a_port_that_no_rule_opens_is_refused(port: str, what: str, protocol: str) -> None:
    """Its author would believe that it is open; a range around it reads, because the other ports are meant."""
    text = f"  - name: a\n    protocol: {protocol}\n    hosts: [a.com]\n    ports:\n    - 80\n    - "
    problem = the_problem_of_rules(text + port)
    assert problem.startswith(f"11: port {port.partition('-')[0]} carries {what}")
    assert "always denied: leave it out" in problem
    number = int(port.partition("-")[0])
    reading = read(RULES_HEAD + text + f"{number - 1}-{number}")
    assert reading.policy.rules[0].ports == (PortRange(80, 80), PortRange(number - 1, number))
    assert reading.warnings == ()


@pytest.mark.parametrize("protocol", ["tls", "tcp", "udp"])
def test_port_53_is_a_warning(protocol: str) -> None:
    """The rule is harmless and useless: the port goes to exeat's resolver with it and without it."""
    text = RULES_HEAD + f"  - {{name: a, protocol: {protocol}, hosts: [a.com], ports: [80, %s]}}\n"
    (warning,) = read(text % "53").warnings
    assert warning.startswith("p.yaml:6: port 53 goes to exeat's own resolver whatever address is meant")
    assert read(text % "54").warnings == read(text % "50-60").warnings == ()


# Expiry and names


def test_a_rule_may_not_outlive_its_policy() -> None:
    """It would end with it, and its author believes otherwise."""
    text = HEAD + "  expires: 2027-01-01T00:00:00Z\n  egress:\n  - name: a\n    hosts: [a.com]\n    expires: "
    assert len(read(text + "2027-01-01T01:00:00+01:00").policy.rules) == 1
    problem = the_problem_of(text + "2027-01-01T00:00:01Z")
    assert problem.startswith("9: the rule would outlive its policy, which ends at 2027-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("  - {name: a, hosts: [a.com]}\n  - name: a\n    hosts: [b.com]\n", "7: a rule in line 6 is named `a` too"),
        ("  - &r {name: a, hosts: [a.com]}\n  - *r\n", "6: a rule in line 6 is named `a` too"),
        ("  - hosts: [a.com]\n", "6: an egress rule has no `name`"),
        ("  - name: 1\n    hosts: [a.com]\n", "6: a rule's `name` is a number (`1`)"),
        ("  - a.com\n", "6: an egress rule is no mapping"),
        (f"  - {{name: {'x' * 129}, hosts: [a.com]}}\n", "6: a rule's `name` has 129 characters"),
    ],
)
def test_every_rule_has_a_name_of_its_own(text: str, problem: str) -> None:
    """A verdict says which rule it was."""
    assert the_problem_of_rules(text).startswith(problem)
