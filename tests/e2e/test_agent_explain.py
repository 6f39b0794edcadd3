"""`exeat explain` against what really happens: the same verdict and the same reason, destination by destination."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from bed import Udp
from e2e.agent_stage import AgentStage, open_agent_stage, say
from e2e.escapes import got
from e2e.gatekeeper import fetch, look_up
from exeat.core.verdict_text import endpoint

DOH = "mozilla.cloudflare-dns.com"  # on the list of public resolvers
ENDS_S = 4
ALLOWED, DENIED = "VERDICT_FORWARDED", "VERDICT_DROPPED"


@dataclass(frozen=True)
class Place:
    """The stage, with one workload."""

    stage: AgentStage
    cgroup: Path
    elsewhere: socket.socket

    def run(self, function: Callable[[], Any]) -> Any:
        """Inside the workload."""
        return self.stage.run(function, self.cgroup)

    def listen(self) -> None:
        """Somebody who is no workload does, on loopback."""
        self.elsewhere.bind(("127.0.0.1", 81))
        self.elsewhere.listen()

    def explained(self, destination: str) -> list[tuple[str, str]]:
        """Verdict and reason of each explanation; the words of the API."""
        finished = self.stage.exeat("explain", "coder", destination, "-o", "json", check=False)
        assert finished.returncode in (0, 1), finished
        said = [(one["verdict"], one["reason"]) for one in json.loads(finished.stdout)["explanations"]]
        assert finished.returncode == any(verdict != ALLOWED for verdict, _ in said)
        return said

    def happened(self, destination: str, attempt: Callable[[], Any], *, is_question: bool = False) -> tuple[str, str]:
        """Verdict and reason of the last that is told of this destination and was not told before the attempt.

        Of other names much may be told meanwhile: a question that is asked again is told of seconds later.
        """
        before = set(self._verdicts(destination, is_question))

        def new() -> list[str]:
            return [line for line in self._verdicts(destination, is_question) if line not in before]

        self.run(attempt)
        self.stage.wait_until(lambda: bool(new()))
        time.sleep(0.05)
        last = json.loads(new()[-1])
        return f"VERDICT_{last['verdict']}", f"REASON_{last['reason'].upper()}"

    def _verdicts(self, destination: str, is_question: bool) -> list[str]:
        """Lines about it, as `explain` is asked for it; no two are the same, because each has its time."""
        lines = self.stage.exeat("verdicts", "--since", "5m", "-o", "json").stdout.splitlines()
        return [line for line in lines if _is_about(json.loads(line), destination, is_question)]


def _is_about(verdict: dict[str, Any], destination: str, is_question: bool) -> bool:
    """Whether this name was asked for or this address was, with its port and protocol."""
    there = verdict["destination"]
    where = there and f"{endpoint(ip_address(there['address']), there['port'])}/{verdict['protocol']}"
    return (verdict["hook"] == "query") == is_question and destination in (verdict["name"], where)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A workload whose policy has every kind of rule; one of them ends soon."""
    with open_agent_stage() as stage:
        stage.bed.network.client.sysctl("net.ipv4.ping_group_range", "0 65535")
        stage.bed.add("talk", Udp(5000))
        zone = {"a.shop.test": stage.shop.addresses, "x.wild.test": [stage.shop.address4]}
        stage.resolver.set_zone(zone | {"never.shop.test": stage.shop.addresses})
        end = (datetime.now(UTC) + timedelta(seconds=ENDS_S)).strftime("%Y-%m-%dT%H:%M:%SZ")
        shop, evil, talk = stage.shop.address4, stage.evil.address4, stage.bed.host("talk").address4
        rules = f"""\
  - {{name: web, hosts: ["a.shop.test", "never.shop.test", "*.wild.test"]}}
  - {{name: doh, hosts: ["*.cloudflare-dns.com"]}}
  - {{name: shop, cidrs: ["{shop}", "{stage.shop.address6}"], ports: [7], protocol: tcp}}
  - {{name: talk, cidrs: ["{talk}"], ports: [5000], protocol: udp}}
  - {{name: ping, cidrs: ["{shop}"], protocol: icmp}}
  - {{name: ends, cidrs: ["{evil}"], ports: [71], protocol: tcp, expires: "{end}"}}
  - {{name: public, cidrs: ["0.0.0.0/0"], ports: [81], protocol: tcp}}
"""
        stage.write("coder", stage.policy("coder", rules))
        cgroup = stage.cgroup("coder-1")
        stage.start()
        with stage.bed.network.client.call(socket.socket) as elsewhere:
            yield Place(stage, cgroup, elsewhere)


def udp(address: str, port: int) -> Callable[[], str]:
    """Sends a datagram."""

    def send() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", (address, port))
        return "sent"

    return lambda: got(send)


def ping(address: str) -> Callable[[], str]:
    """Sends an echo request."""

    def send() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
            sock.sendto(b"\x08\x00\x00\x00\x00\x00\x00\x01hello", (address, 0))
        return "sent"

    return lambda: got(send)


CASES = [
    "granted host", "wildcard host", "host without a rule", "DoH host under a wildcard", "host not resolved yet",
    "allowed address", "allowed address, IPv6", "address without a rule", "port without a rule", "expired rule",
    "udp", "udp without a rule", "icmp", "icmp without a rule", "public network", "private address in it",
    "DNS over TLS", "multicast DNS", "metadata address", "loopback of somebody else",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_explain_says_what_happens(place: Place, case: str) -> None:
    """Asked right before the attempt. The expected word makes sure that both are right and not both wrong."""
    stage = place.stage
    shop, shop6, evil = stage.shop.address4, stage.shop.address6, stage.evil.address4
    talk = stage.bed.host("talk").address4
    destination, attempt, verdict, reason = {
        "granted host": ("a.shop.test", lambda: fetch(shop, "a.shop.test"), ALLOWED, "NAME_ALLOWED"),
        "wildcard host": ("x.wild.test", lambda: fetch(shop, "x.wild.test"), ALLOWED, "NAME_ALLOWED"),
        "host without a rule": ("a.evil.test", lambda: look_up("a.evil.test"), DENIED, "NAME_NOT_ALLOWED"),
        "DoH host under a wildcard": (DOH, lambda: look_up(DOH), DENIED, "DOH_HOST"),
        "host not resolved yet": (
            "never.shop.test",
            lambda: fetch(shop, "never.shop.test"),
            DENIED,
            "NAME_NOT_RESOLVED",
        ),
        "allowed address": (f"{shop}:7/tcp", lambda: say(shop), ALLOWED, "NETWORK_ALLOWED"),
        "allowed address, IPv6": (f"[{shop6}]:7/tcp", lambda: say(shop6), ALLOWED, "NETWORK_ALLOWED"),
        "address without a rule": (f"{evil}:7/tcp", lambda: say(evil), DENIED, "PORT_NOT_ALLOWED"),
        "port without a rule": (f"{shop}:9/tcp", lambda: say(shop, 9), DENIED, "PORT_NOT_ALLOWED"),
        "expired rule": (f"{evil}:71/tcp", lambda: say(evil, 71), DENIED, "RULE_EXPIRED"),
        "udp": (f"{talk}:5000/udp", udp(talk, 5000), ALLOWED, "NETWORK_ALLOWED"),
        "udp without a rule": (f"{evil}:5000/udp", udp(evil, 5000), DENIED, "PORT_NOT_ALLOWED"),
        "icmp": (f"{shop}/icmp", ping(shop), ALLOWED, "NETWORK_ALLOWED"),
        "icmp without a rule": (f"{evil}/icmp", ping(evil), DENIED, "PORT_NOT_ALLOWED"),
        "public network": (f"{evil}:81/tcp", lambda: say(evil, 81), ALLOWED, "NETWORK_ALLOWED"),
        "private address in it": ("10.0.0.7:81/tcp", lambda: say("10.0.0.7", 81), DENIED, "NOT_RESOLVED"),
        "DNS over TLS": (f"{shop}:853/tcp", lambda: say(shop, 853), DENIED, "DNS_OVER_TLS"),
        "multicast DNS": ("224.0.0.251:5353/udp", udp("224.0.0.251", 5353), DENIED, "MULTICAST_DNS"),
        "metadata address": (
            "169.254.169.254:81/tcp",
            lambda: say("169.254.169.254", 81),
            DENIED,
            "NOT_RESOLVED",
        ),
        "loopback of somebody else": ("127.0.0.1:81/tcp", lambda: say("127.0.0.1", 81), DENIED, "LOOPBACK_NOT_OWN"),
    }[case]
    if "host" in case:
        assert place.run(lambda: look_up("a.shop.test"))
        assert place.run(lambda: look_up("x.wild.test"))
    if case == "loopback of somebody else":
        stage.bed.network.client.call(place.listen)
    if case == "expired rule":
        stage.wait_until(lambda: place.explained(destination)[0][1] == "REASON_RULE_EXPIRED", ENDS_S + 2)
    explained = place.explained(destination)
    is_question = case in ("host without a rule", "DoH host under a wildcard")
    assert place.happened(destination, attempt, is_question=is_question) in explained
    assert (verdict, f"REASON_{reason}") in explained


@pytest.mark.parametrize(
    ("mode", "verdict", "reason"),
    [
        ("monitor", "VERDICT_AUDIT", "REASON_PORT_NOT_ALLOWED"),
        ("open", ALLOWED, "REASON_OPEN_MODE"),
        ("quarantine", DENIED, "REASON_QUARANTINED"),
        ("policy", DENIED, "REASON_PORT_NOT_ALLOWED"),
    ],
)
def test_explain_knows_the_mode(place: Place, mode: str, verdict: str, reason: str) -> None:
    """What a verdict does to traffic is part of the answer."""
    evil = place.stage.evil.address4
    place.stage.exeat("mode", "coder", mode)
    destination = f"{evil}:7/tcp"
    explained = place.explained(destination)
    assert explained == [(verdict, reason)]
    assert place.happened(destination, lambda: say(evil)) == (verdict, reason)
    assert place.explained("a.evil.test")[0][0] == verdict
    place.stage.exeat("mode", "coder", "policy")


def test_explain_counts_nothing_and_resolves_nothing(place: Place) -> None:
    """Asking about names a thousand times is no tunnel, and no question goes anywhere."""
    before = len(place.stage.resolver.questions())
    with place.stage.client() as client:
        from exeat.v1 import agent_pb2 as pb

        for number in range(1000):
            client.explain(pb.ExplainRequest(workload="coder", destination=f"q7z{number:05}x9k.wild.test"))
    assert len(place.stage.resolver.questions()) == before
    assert place.run(lambda: look_up("x.wild.test")) == [place.stage.shop.address4]
    place.stage.resolver.set_zone({"fresh.wild.test": [place.stage.shop.address4]})
    happened = place.happened("fresh.wild.test", lambda: look_up("fresh.wild.test"), is_question=True)
    assert happened == (ALLOWED, "REASON_RESOLVED")


def test_explain_takes_443_and_says_what_it_cannot_answer(place: Place) -> None:
    """A network, a pattern, nonsense: status 2 and a sentence; nobody's workload: status 1."""
    shop = place.stage.shop.address4
    assert place.explained(shop) == place.explained(f"{shop}:443/tcp")
    for nonsense in ("203.0.113.0/24:7", "*.shop.test", "https://a.shop.test/", "a.shop.test:0", "", "a b"):
        finished = place.stage.exeat("explain", "coder", nonsense, check=False)
        assert finished.returncode == 2, finished
        assert finished.stderr.startswith("exeat: ")
    assert place.stage.exeat("explain", "nobody", "a.shop.test", check=False).returncode == 1
