"""The `dns` section: what each field means, and at which line what could be misread is refused."""

from ipaddress import ip_address

import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.allow_flag import parse_dns_upstream
from exeat.core.duration_text import parse_duration
from exeat.core.query_types import QUERY_TYPES, parse_query_type
from exeat.core.server_text import gather_upstreams, parse_server
from exeat.errors import PolicyError
from exeat.model.policy import DnsSettings, Server, Tunnel, TunnelLimits, Upstreams
from unit.policy_words import HEAD, problems_of, read, the_problem_of


def settings_of(lines: str) -> DnsSettings:
    """The settings of a policy whose seventh line is the first of these."""
    reading = read(HEAD + "  egress: []\n  dns:\n" + lines)
    assert reading.warnings == ()
    return reading.policy.dns


def server(text: str, port: int = 53) -> Server:
    """An upstream resolver."""
    return Server(ip_address(text), port)


# What the section means


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("min_grant: 30s", DnsSettings(min_grant_s=30)),
        ("min_grant: 90", DnsSettings(min_grant_s=90)),
        ("min_grant: 20m", DnsSettings(min_grant_s=1200)),
        ("min_grant: '1d'", DnsSettings(min_grant_s=86_400)),
        ("max_grants: 16", DnsSettings(max_grants=16)),
        ("max_grants: 65536", DnsSettings(max_grants=65_536)),
        ("types: [TXT, MX, 'NULL', ANY, TYPE123]", DnsSettings(types=(16, 15, 10, 255, 123))),
        ("tunnel: off", DnsSettings(tunnel=Tunnel.OFF)),
        ("tunnel: 'block'", DnsSettings(tunnel=Tunnel.BLOCK)),
        ("tunnel_limits: {entropy: 5}", DnsSettings(tunnel_limits=TunnelLimits(entropy=5.0))),
        ("tunnel_limits: {entropy: 3.75}", DnsSettings(tunnel_limits=TunnelLimits(entropy=3.75))),
        ("tunnel_limits: {label_length: 63}", DnsSettings(tunnel_limits=TunnelLimits(label_length=63))),
        ("tunnel_limits: {names_per_minute: 1}", DnsSettings(tunnel_limits=TunnelLimits(names_per_minute=1))),
        ("upstreams: ['2001:db8::53']", DnsSettings(upstreams=(Upstreams((server("2001:db8::53"),)),))),
    ],
)
def test_a_field_changes_what_it_names(line: str, settings: DnsSettings) -> None:
    """And leaves the others at their defaults."""
    assert settings_of(f"    {line}\n") == settings != DnsSettings()


def test_an_empty_section_changes_nothing() -> None:
    """Every field has a default."""
    assert read(HEAD + "  egress: []\n  dns: {}\n").policy.dns == DnsSettings()


def test_plain_addresses_are_one_list_and_domains_one_each() -> None:
    """In the order of the text, wherever the domains stand between them."""
    assert settings_of(
        """\
    upstreams:
    - {domain: Corp.Example., servers: [10.0.0.53]}
    - 203.0.113.53
    - {domain: bücher.example, servers: [203.0.113.53, "203.0.113.53:5353"]}
    - "[2001:db8::53]:5353"
"""
    ).upstreams == (
        Upstreams((server("203.0.113.53"), server("2001:db8::53", 5353))),
        Upstreams((server("10.0.0.53"),), "corp.example"),
        Upstreams((server("203.0.113.53"), server("203.0.113.53", 5353)), "xn--bcher-kva.example"),
    )


# What is refused


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("upstream: []", "`upstream` is no field of `dns`; did you mean `upstreams`?"),
        ("ttl: 5", "`ttl` is no field of `dns`; there are: upstreams, min_grant"),
        ("upstreams: 203.0.113.53", "`upstreams` is `203.0.113.53`: write a list"),
        ("upstreams: []", "`upstreams` is an empty list"),
        ("upstreams:", "`upstreams` is empty"),
        ("upstreams: [[203.0.113.53]]", "a resolver is a list: write one value"),
        ("upstreams: [no]", "a resolver is a YAML boolean (`no`) to YAML: write what you mean, in quotes"),
        ("upstreams: [dns.google]", "`dns.google` is no resolver's address: write `203.0.113.53`"),
        ("upstreams: [203.0.113.53, 203.0.113.53]", "the resolver `203.0.113.53` is written twice"),
        ("upstreams: [203.0.113.53, '203.0.113.53:53']", "the resolver `203.0.113.53` is written twice"),
        ("upstreams: [{domain: a.com}]", "an entry of `upstreams` has no `servers`: write the resolvers to ask"),
        ("upstreams: [{servers: [10.0.0.1]}]", "an entry of `upstreams` has no `domain`"),
        ("upstreams: [{domain: a.com, servers: []}]", "`servers` is an empty list"),
        ("upstreams: [{domain: a.com, servers: 10.0.0.1}]", "`servers` is `10.0.0.1`: write a list"),
        ("upstreams: [{domain: a.com, server: [10.0.0.1]}]", "`server` is no field of an entry of `upstreams`; did"),
        ("upstreams: [{domain: no, servers: [10.0.0.1]}]", "a domain is a YAML boolean (`no`)"),
        ("upstreams: [{domain: a.com, servers: [10.0.0.1, 10.0.0.1]}]", "the resolver `10.0.0.1` is written twice"),
        ("min_grant: 29s", "`min_grant` is `29s`: write a span from `30s` to `24h`"),
        ("min_grant: 0", "`min_grant` is `0`: write a span from"),
        ("min_grant: 25h", "`min_grant` is `25h`: write a span from"),
        ("min_grant: 86401", "`min_grant` is `86401`: write a span from"),
        ("min_grant: 1:30", "`1:30` is no span of time: write whole seconds"),
        ("min_grant: 10 min", "`10 min` is no span of time"),
        ("min_grant: yes", "`min_grant` is a YAML boolean (`yes`)"),
        ("min_grant: [10m]", "`min_grant` is a list: write one value"),
        ("max_grants: 15", "`max_grants` is `15`: write a number from 16 to 65536"),
        ("max_grants: 65537", "`max_grants` is `65537`: write a number from 16 to 65536"),
        ("max_grants: 4k", "`max_grants` is `4k`: write a number from 16 to 65536 in decimal digits"),
        ("types: TXT", "`types` is `TXT`: write a list"),
        ("types: [NULL]", "a type is an empty value (`NULL`) to YAML: write what you mean, in quotes"),
        ("types: [TXT, TYPE16]", "the type `TYPE16` is written twice: remove one"),
        ("types: [txt]", "`txt` is no type of question: did you mean `TXT`?"),
        ("tunnel: drop", "`tunnel` is `drop`; write one of off, report, block"),
        ("tunnel: false", "`tunnel` is `false`; "),
        ("tunnel_limits: 5", "`tunnel_limits` is `5`: write fields"),
        ("tunnel_limits: {length: 5}", "`length` is no field of `tunnel_limits`; "),
        ("tunnel_limits: {names_per_minute: 0}", "`names_per_minute` is `0`: write a number from 1 to 10000"),
        ("tunnel_limits: {names_per_minute: 10001}", "`names_per_minute` is `10001`: write a number from 1 to 10000"),
        ("tunnel_limits: {label_length: 64}", "`label_length` is `64`: write a number from 1 to 63"),
        ("tunnel_limits: {entropy: 0.9}", "`entropy` is `0.9`: write a number from 1 to 8, as in `4.5`"),
        ("tunnel_limits: {entropy: 8.1}", "`entropy` is `8.1`: write a number from 1 to 8"),
        ("tunnel_limits: {entropy: '4.0'}", "`entropy` is text: write 4.0 without quotes"),
        ("tunnel_limits: {entropy: .nan}", "`entropy` is `.nan`: write a number from 1 to 8"),
        ("tunnel_limits: {entropy: 4e0}", "`entropy` is `4e0`: write a number"),
        ("tunnel_limits: {entropy: 04.0}", "`entropy` is `04.0`: write a number"),
        ("tunnel_limits: {entropy: [4]}", "`entropy` is a list: write a number"),
    ],
)
def test_a_field_that_could_be_misread_is_refused_at_its_line(line: str, problem: str) -> None:
    """With what to write instead."""
    assert the_problem_of(HEAD + f"  egress: []\n  dns:\n    {line}\n").startswith(f"7: {problem}")


def test_the_section_is_a_mapping() -> None:
    """And one that says something."""
    assert the_problem_of(HEAD + "  egress: []\n  dns: [203.0.113.53]\n").startswith("6: `dns` is a list: write fields")
    assert the_problem_of(HEAD + "  egress: []\n  dns:\n").startswith("6: `dns` is empty")


def test_a_domain_is_written_once() -> None:
    """However it is spelt; the same server for two domains is fine."""
    entry = "    - {domain: %s, servers: [10.0.0.1]}\n"
    text = "  egress: []\n  dns:\n    upstreams:\n" + entry % "a.com" + entry
    problem = the_problem_of(HEAD + text % "A.com.")
    assert problem == "9: an entry in line 8 is for `a.com` too: put its `servers` into one"
    assert len(read(HEAD + text % "b.a.com").policy.dns.upstreams) == 2


def test_every_problem_of_the_section_is_told() -> None:
    """Each at its own line."""
    text = """\
  egress: []
  dns:
    upstreams:
    - 0.0.0.0
    - {domain: '*.a.com', servers: [ff02::fb]}
    types:
    - A
"""
    assert [problem.partition(":")[0] for problem in problems_of(HEAD + text)] == ["8", "9", "9", "11"]


# Resolvers


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no resolver's address"),
        ("203.0.113", "is no resolver's address"),
        ("203.0.113.053", "is no resolver's address"),
        ("203.0.113.53/32", "is no resolver's address"),
        ("udp://203.0.113.53", "is no resolver's address"),
        ("203.0.113.53:", "`` is no port"),
        ("203.0.113.53:0", "`0` is no port"),
        ("203.0.113.53:65536", "beyond the last port"),
        ("203.0.113.53:53-54", "`53-54` is a range"),
        ("203.0.113.53:53-53", "`53-53` is a range"),
        ("203.0.113.53:853", "port 853 speaks DNS over TLS"),
        ("203.0.113.53:53:53", "is no resolver's address"),
        ("2001:db8::1:53", "may end in a port: write `[2001:db8::1]:53` if it does, else `[2001:db8::1:53]`"),
        ("[203.0.113.53", "is no resolver's address"),
        ("0.0.0.0", "is no single host's address"),
        ("::", "is no single host's address"),
        ("224.0.0.251", "is no single host's address"),
        ("[ff02::fb]:5353", "is no single host's address"),
        ("255.255.255.255", "is no single host's address"),
        ("::ffff:203.0.113.53", "write it as IPv4: `203.0.113.53`"),
        ("fe80::1", "is known on one interface only"),
        ("fe80::1%eth0", "is known on one interface only"),
    ],
)
def test_what_is_no_resolver_is_refused_with_a_sentence(text: str, problem: str) -> None:
    """In a file and on the command line alike."""
    with pytest.raises(ValueError, match="write|beyond") as in_a_file:
        parse_server(text)
    assert problem in str(in_a_file.value)
    with pytest.raises(PolicyError) as on_the_command_line:
        parse_dns_upstream(text)
    assert on_the_command_line.value.problems == [f"--dns-upstream {text}: {in_a_file.value}"]


@pytest.mark.parametrize(
    ("text", "domain", "expected"),
    [
        ("203.0.113.53", "", server("203.0.113.53")),
        ("203.0.113.53:5353", "", server("203.0.113.53", 5353)),
        ("127.0.0.53", "", server("127.0.0.53")),
        ("2001:db8::53", "", server("2001:db8::53")),
        ("[2001:db8::53]", "", server("2001:db8::53")),
        ("[2001:db8::1:53]:53", "", server("2001:db8::1:53")),
        ("[2001:db8::53]:5353", "", server("2001:db8::53", 5353)),
        ("corp.example=10.0.0.53", "corp.example", server("10.0.0.53")),
        ("Corp.Example.=[2001:db8::53]:5353", "corp.example", server("2001:db8::53", 5353)),
        ("consul=127.0.0.1:8600", "consul", server("127.0.0.1", 8600)),
        ("10.in-addr.arpa=10.0.0.53", "10.in-addr.arpa", server("10.0.0.53")),
    ],
)
def test_the_flag_is_a_domain_and_its_resolver(text: str, domain: str, expected: Server) -> None:
    """No domain: every name."""
    assert parse_dns_upstream(text) == (domain, expected)


@pytest.mark.parametrize(
    ("domain", "sentence"),
    [
        ("", "would be every name: write the resolver's address without a domain"),
        (".", "would be every name"),
        ("*", "would be every name"),
        ("**.", "would be every name"),
        ("*.corp.example", "write `corp.example`; it covers all names below"),
        (".corp.example", "write `corp.example`; it covers all names below"),
        ("corp.*.example", "is no domain: write one like `corp.example`"),
        ("https://corp.example", "is no domain"),
        ("corp.example:53", "is no domain"),
        ("10.0.0.53", "is no domain"),
        ("10.0.0.0/8", "is no domain"),
        ("a=b", "has characters that no host name has"),
        ("_a.example", "has an underscore"),
        ("a..example", "has an empty label"),
    ],
)
def test_what_is_no_domain_is_refused_with_a_sentence(domain: str, sentence: str) -> None:
    """On the command line and in a file alike."""
    with pytest.raises(PolicyError) as refusal:
        parse_dns_upstream(f"{domain}=10.0.0.53")
    assert sentence in str(refusal.value)
    (problem,) = refusal.value.problems
    line = f"    upstreams: [{{domain: '{domain}', servers: [10.0.0.53]}}]\n"
    in_a_file = the_problem_of(HEAD + "  egress: []\n  dns:\n" + line)
    assert in_a_file == f"7: {problem.removeprefix(f'--dns-upstream {domain}=10.0.0.53: ')}"


def test_flags_gather_into_one_list_a_domain() -> None:
    """In the order in which they were given; a repetition changes nothing."""
    texts = ["203.0.113.53", "a.com=10.0.0.1", "203.0.113.54", "A.com=10.0.0.2", "203.0.113.53:53"]
    assert gather_upstreams(map(parse_dns_upstream, texts)) == (
        Upstreams((server("203.0.113.53"), server("203.0.113.54"))),
        Upstreams((server("10.0.0.1"), server("10.0.0.2")), "a.com"),
    )


@given(st.ip_addresses(), st.integers(1, 65_535))
def test_a_server_reads_as_it_is_written(address: object, port: int) -> None:
    """Whatever is taken, its own words mean the same."""
    try:
        read_server = parse_server(f"[{address}]:{port}")
    except ValueError:
        return
    assert parse_server(str(read_server)) == read_server


@given(st.text(max_size=40) | st.text("0123456789abcdef:.[]=%*-", max_size=30))
def test_any_text_is_a_resolver_or_a_policy_error(text: str) -> None:
    """Nothing else is raised."""
    try:
        domain, found = parse_dns_upstream(text)
    except PolicyError:
        return
    assert not found.address.is_multicast
    assert not found.address.is_unspecified
    assert bool(domain) is ("=" in text)


# Types of questions


def test_names_of_types_are_those_of_dns() -> None:
    """As another implementation has them."""
    assert {name: int(dns.rdatatype.from_text(name)) for name in QUERY_TYPES} == QUERY_TYPES


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        *((name, f"`{name}` is answered for every allowed name") for name in ("A", "AAAA", "CNAME", "SRV", "PTR")),
        *((name, f"`{name}` is never answered, because it carries the keys") for name in ("HTTPS", "SVCB")),
        *((name, f"`{name}` is no type of record") for name in ("OPT", "AXFR", "IXFR", "TKEY", "TSIG", "MAILA")),
        ("TYPE65", "`TYPE65`, which is HTTPS, is never answered"),
        ("TYPE1", "`TYPE1`, which is A, is answered for every allowed name"),
        ("TYPE41", "`TYPE41`, which is OPT, is no type of record"),
        ("TYPE128", "`TYPE128` is no type of record"),
        ("TYPE0", "write one from TYPE1 to TYPE65534"),
        ("TYPE65535", "write one from TYPE1 to TYPE65534"),
        ("TYPE99999", "write one from TYPE1 to TYPE65534"),
        ("TYPE016", "is no type of question"),
        ("type16", "is no type of question"),
        ("16", "write `TXT`"),
        ("4711", "write `TYPE4711`"),
        ("*", "write `ANY`"),
        ("aaaa", "did you mean `AAAA`?"),
        ("", "write a name such as `TXT`"),
        ("QQQQQ", "write a name such as `TXT`"),
    ],
)
def test_a_type_that_cannot_be_allowed_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    """By name and by number alike."""
    with pytest.raises(ValueError, match="write|leave|mean") as refusal:
        parse_query_type(text)
    assert sentence in str(refusal.value)


def test_every_other_type_may_be_allowed() -> None:
    """By number all, by name those that have one."""
    refused = {number for number in range(1, 65_535) if not _is_taken(f"TYPE{number}")}
    assert refused == {1, 5, 12, 28, 33, 41, 64, 65, *range(128, 255)}
    for name, number in QUERY_TYPES.items():
        assert _is_taken(name) is (number not in refused)


def _is_taken(text: str) -> bool:
    try:
        return parse_query_type(text) > 0
    except ValueError:
        return False


# Spans of time


@given(st.integers(0, 999_999_999), st.sampled_from([("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]))
def test_a_span_is_a_number_of_its_unit(number: int, unit: tuple[str, int]) -> None:
    """Seconds without one."""
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "+1", "1.5h", "1h30m", "10M", "10 m", "010", "1_0", "1e3", "1w", "9" * 5000, "١"]
)
def test_what_is_no_span_is_refused(text: str) -> None:
    """Rather than guessed."""
    with pytest.raises(ValueError, match="is no span of time: write whole seconds"):
        parse_duration(text)
