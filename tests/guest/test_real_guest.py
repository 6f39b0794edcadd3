"""A real guest under a real agent: Debian's kernel in an emulator, behind a tap. What it reaches, how it is refused.

Each denial was walked before the agent began, in the same guest over the same path, and was open then: `home.before`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from bed import Counts, Host, Sniffer
from e2e.agent_stage import START_S
from guest.real.home import (
    GUEST4,
    GUEST6,
    GUEST_MAC,
    HOST4,
    HOST6,
    HOST_PORT,
    PUBLIC,
    TAP,
    Home,
    open_home,
    read_probe,
)
from guest.real.machine import missing_for_a_guest

QUICKLY_MS = 50  # of the guest's own time
TRIES = 3  # the emulator shares its processor with other tests
VERDICT_LIMIT_S = 5.0
BULK_BYTES = 2_000_000
RST = 0x04  # linux/tcp.h
LARGEST_FRAME = 1514  # without segmentation offload
FAMILIES = ("v4", "v6")
PROHIBITED = {"v4": "EHOSTUNREACH", "v6": "EACCES"}  # what Linux makes of "administratively prohibited"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One boot, one agent, one guest under a policy for all the tests."""
    if missing := missing_for_a_guest():
        pytest.skip(missing)
    with open_home(tmp_path_factory.mktemp("guest")) as home:
        home.agent.write("guests", home.policy())
        home.agent.start()
        home.agent.wait_until(lambda: "guests" in home.agent.exeat("workloads", TAP, check=False).stdout, START_S)
        yield home


def wait_for_verdict(home: Home, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The verdict that was told of what was just done."""
    deadline = time.monotonic() + VERDICT_LIMIT_S
    while not (found := [one for one in home.verdicts() if is_it(one)]):
        assert time.monotonic() < deadline, home.verdicts()[-5:]
        time.sleep(0.05)
    return found[-1]


def address_of(host: Host, family: str) -> str:
    """Its address of a family."""
    return host.address4 if family == "v4" else host.address6


def assert_refused_quickly(home: Home, way: str, outcome: str) -> int:
    """The way was open before; now the guest hears of the denial at once. How often it was walked."""
    before = read_probe(home.before[way])
    assert before.outcome == "answered", before
    tried = [home.probe(way)]
    while tried[-1].ms >= QUICKLY_MS and len(tried) < TRIES:
        tried.append(read_probe(home.guest.sh(home.ways()[way])))
    assert {one.outcome for one in tried} == {outcome}
    assert min(one.ms for one in tried) < QUICKLY_MS, tried
    return len(tried)


def has_reset(wire: Sniffer, address: str) -> bool:
    """Whether a RST came for the address."""
    packed = ip_address(address).packed
    flags = 14 + (20 if len(packed) == 4 else 40) + 13
    return any(packed in frame[14:54] and len(frame) > flags and frame[flags] & RST for frame in wire.frames())


def assert_told(home: Home, address: str, port: int, reason: str) -> dict[str, Any]:
    """There is a verdict of the destination; its workload is the tap, and its hook says where it was judged."""
    verdict = wait_for_verdict(home, lambda one: one["destination"] == {"address": address, "port": port})
    said = (verdict["verdict"], verdict["reason"], verdict["hook"], verdict["workload"])
    assert said == ("DROPPED", reason, "guest", TAP), verdict
    return verdict


@pytest.mark.parametrize("family", FAMILIES)
def test_an_allowed_name_is_reached_over_tls(home: Home, family: str) -> None:
    """curl resolves by the gate, connects, and the server sees the name and says its own."""
    assert home.before[f"web {family}"].text == "I am good.test\n"
    said = home.walk(f"web {family}")
    assert (said.status, said.text) == (0, "I am good.test\n")
    assert home.good.count().sni == ["good.test"]
    assert home.public.count().is_untouched


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_without_a_rule_is_not_resolved(home: Home, family: str) -> None:
    """The gate answers NXDOMAIN; nobody is asked, nobody is reached."""
    way = f"web by another name {family}"
    assert home.before[way].text == "I am bad.test\n"
    said = home.walk(way)
    assert said.status == 6, said  # CURLE_COULDNT_RESOLVE_HOST
    assert home.bad.count().is_untouched
    assert home.public.count().is_untouched
    assert home.resolver.questions() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hello_with_another_name_is_reset_before_the_server_reads_a_byte(home: Home, family: str) -> None:
    """The address was granted to good.test; a hello for bad.test ends there, for both sides."""
    assert home.walk(f"web {family}").status == 0
    address = address_of(home.good, family)
    with home.bed.sniff() as wire:
        times = assert_refused_quickly(home, f"hello with another name {family}", "ECONNRESET")
        assert home.good.count() == Counts(connections=times)
        assert has_reset(wire, address)
    assert assert_told(home, address, 443, "name_not_allowed")["name"] == "bad.test"


@pytest.mark.parametrize("family", FAMILIES)
def test_curl_hears_of_a_denied_name_at_once(home: Home, family: str) -> None:
    """The same with a client that people use, which says what happened."""
    assert home.walk(f"web {family}").status == 0
    home.good.reset()
    address = address_of(home.good, family)
    bracketed = f"[{address}]" if family == "v6" else address
    where = f"--resolve bad.test:443:{bracketed} https://bad.test/"
    said = home.guest.sh(f"curl --silent --show-error --insecure --max-time 10 {where}")
    assert said.status == 35, said  # CURLE_SSL_CONNECT_ERROR
    assert "reset by peer" in said.text
    assert home.good.count() == Counts(connections=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_allowed_name_at_another_address_is_refused(home: Home, family: str) -> None:
    """No name that is allowed was resolved to it: not even the SYN arrives."""
    assert_refused_quickly(home, f"name at another address {family}", "ECONNREFUSED")
    assert home.bad.count().is_untouched
    assert_told(home, address_of(home.bad, family), 443, "not_resolved")


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_tcp_goes_where_a_network_rule_says_and_nowhere_else(home: Home, family: str) -> None:
    """Refused at the SYN, as if nobody listened."""
    tried = home.probe(f"plain {family}")
    assert (tried.outcome, tried.answer) == ("answered", "I am good?hello")
    assert_refused_quickly(home, f"plain elsewhere {family}", "ECONNREFUSED")
    assert home.bad.count().is_untouched
    assert_told(home, address_of(home.bad, family), 7, "not_resolved")


@pytest.mark.parametrize("family", FAMILIES)
def test_quic_is_refused_so_that_clients_fall_back_at_once(home: Home, family: str) -> None:
    """UDP on 443, to an address whose TLS is allowed, has an ICMP error for an answer."""
    assert home.walk(f"web {family}").status == 0
    assert_refused_quickly(home, f"quic {family}", PROHIBITED[family])
    assert home.good.count().datagrams == 0
    assert_told(home, address_of(home.good, family), 443, "port_not_allowed")


@pytest.mark.parametrize("family", FAMILIES)
def test_udp_goes_where_a_rule_says_and_nowhere_else(home: Home, family: str) -> None:
    """An answer from there, an error from elsewhere."""
    tried = home.probe(f"games {family}")
    assert (tried.outcome, tried.answer) == ("answered", "I am good")
    assert_refused_quickly(home, f"games elsewhere {family}", PROHIBITED[family])
    assert home.bad.count().is_untouched
    assert_told(home, address_of(home.bad, family), 5000, "not_resolved")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_ping_without_an_icmp_rule_does_not_arrive(home: Home, family: str) -> None:
    """The wire behind the host is silent."""
    assert home.before[f"ping {family}"].status == 0
    with home.bed.sniff() as wire:
        assert home.walk(f"ping {family}").status != 0
        assert wire.toward(address_of(home.bad, family)).frames == 0


@pytest.mark.parametrize("way", ["dns udp", "dns tcp", "dns udp v6", "dns tcp v6"])
def test_a_question_to_any_server_is_answered_by_the_gate(home: Home, way: str) -> None:
    """The guest hears from whom it asked, and that server has heard nothing."""
    assert home.before[way].text.strip() in home.good.addresses
    said = home.walk(way)
    assert said.text.strip() in home.good.addresses
    assert home.public.count().is_untouched
    server = home.public.address6 if "v6" in way else PUBLIC
    flags = "+tcp" if "tcp" in way else "+notcp"
    refused = home.guest.sh(f"dig +tries=1 +timeout=3 {flags} @{server} bad.test A")
    assert "status: NXDOMAIN" in refused.text
    assert f"SERVER: {server}#53" in refused.text
    assert home.public.count().is_untouched


def test_an_operator_sees_what_was_denied(home: Home) -> None:
    """`exeat verdicts` tells of the guest by its interface's name."""
    home.walk("plain elsewhere v4")
    wait_for_verdict(home, lambda one: one["destination"]["port"] == 7)
    said = home.agent.exeat("verdicts", "--workload", TAP, "--since", "5m").stdout
    assert any("denied" in line and f"{home.bad.address4}:7 " in line for line in said.splitlines()), said


def test_the_metadata_address_is_refused(home: Home) -> None:
    """No policy names it, so nobody's secrets are there to be read."""
    assert_refused_quickly(home, "metadata", "ECONNREFUSED")
    assert home.metadata.count().is_untouched
    assert_told(home, home.metadata.also[0], 80, "not_resolved")


@pytest.mark.parametrize("kind", ["plain", "games"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_packet_from_another_address_is_dropped(home: Home, kind: str, family: str) -> None:
    """To a destination that is allowed, from an address that is not the guest's."""
    way = f"{kind} from another address {family}"
    assert read_probe(home.before[way]).outcome == "answered"
    assert home.probe(f"{kind} {family}").outcome == "answered"
    with home.other_address():
        tried = home.probe(way)
    assert tried.outcome in {"silent", "EHOSTUNREACH"}, tried
    assert home.good.count().is_untouched
    wait_for_verdict(home, lambda one: one["reason"] == "spoofed")


def test_a_registered_guest_has_the_addresses_that_were_said(home: Home) -> None:
    """One more of its network, which it might have taken if nobody had said any, is not its own."""
    way = "games from beside v6"
    assert read_probe(home.before[way]).outcome == "answered"
    words = ("--mac", GUEST_MAC, "--address", GUEST4, "--address", GUEST6, "--label", "session=1", "--policy", "guests")
    home.agent.exeat("attach", TAP, *words)
    try:
        assert "session=1" in home.agent.exeat("workloads", TAP).stdout
        for known in ("games v4", "games v6"):
            assert home.probe(known).outcome == "answered"
        with home.address_beside():
            assert home.probe(way).outcome == "silent"
        assert home.good.count().is_untouched
        wait_for_verdict(home, lambda one: one["reason"] == "spoofed")
    finally:
        home.agent.exeat("unregister", TAP)
    assert home.probe("games v6").outcome == "answered"  # the policy's subject covers the interface still


def test_the_guests_own_mac_address_is_the_only_one(home: Home) -> None:
    """A guest that calls its card otherwise reaches nothing, and everything again with its own."""
    assert home.probe("plain v4").outcome == "answered"
    with home.other_mac():
        assert home.probe("plain v4").outcome != "answered"
        assert home.good.count().is_untouched
    assert home.probe("plain v4").outcome == "answered"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_host_itself_is_refused_like_anybody(home: Home, family: str) -> None:
    """A service on the guest's own gateway needs a rule."""
    address = HOST4 if family == "v4" else HOST6
    knock = f"probe tcp {address} {HOST_PORT}"
    with home.host_service(address) as come:
        tried = read_probe(home.guest.sh(knock))
        assert (tried.outcome, come()) == ("ECONNREFUSED", 0)
        assert tried.ms < QUICKLY_MS
        home.agent.exeat("mode", TAP, "open", "--for", "1m", "--reason", "the twin of a denial")
        try:
            assert read_probe(home.guest.sh(knock)).outcome == "open"
            assert come() == 1
        finally:
            home.agent.exeat("mode", TAP, "policy")


@pytest.mark.parametrize("family", FAMILIES)
def test_megabytes_in_segments_of_64_kib_come_back_whole(home: Home, family: str) -> None:
    """The guest's card leaves checksums and segmentation to others; the same bytes come back from the server."""
    address = address_of(home.good, family)
    with home.bed.network.client.call(lambda: Sniffer(TAP)) as tap:
        said = home.guest.sh(
            f"head -c {BULK_BYTES} /dev/urandom >/tmp/bulk; md5sum </tmp/bulk; "
            f"nc {address} 7 </tmp/bulk | tail -c +{len('I am good ') + 1} | head -c {BULK_BYTES} | md5sum"
        )
        sent, came = said.text.split("\n")[:2]
        assert sent == came
        assert max(map(len, tap.frames())) > LARGEST_FRAME


def test_the_agent_knows_whose_guest_it_is(home: Home) -> None:
    """What it learnt of the guest, from its own frames."""
    for way in ("plain v4", "plain v6"):
        assert home.probe(way).outcome == "answered"
    said = home.agent.exeat("workloads", TAP).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("guest ")]
    assert set(line.replace(",", " ").split()) >= {GUEST_MAC, GUEST4, GUEST6}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_agent_the_guest_is_judged_as_before(home: Home, family: str) -> None:
    """The kernel goes on: what is granted is reached, everything else is refused, as quickly."""
    assert home.walk(f"web {family}").status == 0
    home.agent.kill()
    try:
        home.good.reset()
        address = address_of(home.good, family)
        bracketed = f"[{address}]" if family == "v6" else address
        curl = f"curl --silent --show-error --cacert /ca.pem --resolve good.test:443:{bracketed} https://good.test/"
        assert home.guest.sh(curl).text == "I am good.test\n"
        times = assert_refused_quickly(home, f"hello with another name {family}", "ECONNRESET")
        assert home.good.count() == Counts(connections=times)
        assert_refused_quickly(home, f"plain elsewhere {family}", "ECONNREFUSED")
        assert_refused_quickly(home, f"games elsewhere {family}", PROHIBITED[family])
        assert home.bad.count().is_untouched
    finally:
        home.agent.start()
    assert home.walk(f"web {family}").status == 0
