"""Real programs, each with a resolver of its own, ask the gate: what is allowed works, what is not fails at once."""

import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dns.flags
import dns.message
import pytest

from bed import Bed, Counts, call_in
from bed.namespace import Namespace
from bed.network import ip_batch
from bed.services import Asked
from e2e.escapes import family_of
from e2e.gate_stage import (
    CLIENTS,
    EXEAT,
    LARGE,
    LARGE_COUNT,
    NOBODY4,
    NOBODY6,
    PYTHON,
    Call,
    GateStage,
    is_installed,
    open_gate_stage,
    read_calls,
)  # fmt: skip
from e2e.gatekeeper import PLENTY_S, Kept, keep_gate
from e2e.guard import Guard, rule
from exeat.core.query_types import QUERY_TYPES
from exeat.model.policy import DnsSettings
from exeat.model.verdicts import Reason, Verdict

FAST_MS = 100  # issue 3: a denied name fails in less
PATIENCE_S = 4.0  # glibc and dig wait five seconds for a server before they ask the next
ALLOWED = ("v4.shop.test", "v6.shop.test")
DENIED = "evil.test"  # the resolver knows it and those below it, and they lead to where the others do
ROUNDS = ("one.evil.test", "two.evil.test", "three.evil.test")  # the best one counts: the machine may be busy
CALLED = ALLOWED + ROUNDS
PLACES = ("own namespace", "container")
HOSTS = ("shop.test", "*.shop.test")
SHOP = (rule(hosts=HOSTS, protocol="tls"), rule(hosts=HOSTS, ports=(7,)))


@dataclass(frozen=True)
class Round:
    """What all clients got in one place, and what reached the resolver and the server meanwhile."""

    calls: list[Call]
    questions: list[Asked]
    count: Counts

    def of(self, client: str, names: Sequence[str]) -> list[Call]:
        """One client's calls of these names."""
        return [call for call in self.calls if call.client == client and call.name in names]


@pytest.fixture(scope="module")
def stage(bed: Bed) -> Iterator[GateStage]:
    """One stage for the whole file."""
    with open_gate_stage(bed) as it:
        yield it


def perform(stage: GateStage, argv: Sequence[str], **where: object) -> Round:
    """All of them, somewhere."""
    stage.resolver.reset()
    stage.shop.reset()
    finished = stage.finish(argv, **where)  # type: ignore[arg-type]
    assert finished.stdout, finished.stderr
    return Round(read_calls(finished.stdout), stage.resolver.questions(), stage.shop.count())


@pytest.fixture(scope="module")
def free(stage: GateStage) -> Round:
    """The twin: the same clients with nobody in their way."""
    return perform(stage, stage.driver(*CALLED))


@pytest.fixture(scope="module", params=PLACES)
def held(request: pytest.FixtureRequest, stage: GateStage, guard: Guard) -> Round:
    """The same clients with the gate in front of them."""
    if request.param == "container":
        with keep_gate(guard, stage.bed, stage.resolver, *SHOP, namespace=stage.container.fd) as kept:
            return perform(stage, stage.driver(*CALLED), cgroup=kept.workload.cgroup, at=stage.container)
    options = ("--allow", "*.shop.test", "--allow", "*.shop.test:7/tcp")
    return perform(stage, [*EXEAT, "run", *options, "--", *stage.driver(*CALLED)])


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Each client that is installed."""
    if not is_installed(request.param):
        pytest.skip(f"the program behind {request.param!r} is not installed here")
    return str(request.param)


def said(client: str, name: str) -> str:
    """How the server answers it."""
    return "I am gate-shop" if client == "musl" else f"I am {name}"  # plain TCP has no names


def test_a_client_resolves_and_reaches_what_is_allowed(client: str, held: Round) -> None:
    """Over IPv4 and IPv6; the very first connection after the answer is let through."""
    allowed = held.of(client, ALLOWED)
    assert len(allowed) == len(ALLOWED)
    for call in allowed:
        assert call.status == 0, call
        assert said(client, call.name) in call.output, call


def test_a_client_is_told_at_once_that_a_denied_name_does_not_exist(client: str, held: Round, free: Round) -> None:
    """No name was asked for before; without exeat the same command reaches the server."""
    assert all(said(client, call.name) in call.output for call in free.of(client, ROUNDS))
    denied = held.of(client, ROUNDS)
    assert len(denied) == len(ROUNDS)
    assert all(call.status not in (0, 124) and "I am" not in call.output for call in denied), denied
    assert min(call.took_ms for call in denied) < FAST_MS, denied


def test_no_denied_name_reaches_the_resolver_or_the_server(held: Round, free: Round) -> None:
    """Of all clients together; without exeat each of them asked the one, and all but musl named it to the other."""
    clients = len({call.client for call in held.calls})
    asked = [asked.name for asked in free.questions]
    assert all(asked.count(name) >= clients for name in ROUNDS)
    assert {asked.name for asked in held.questions} == set(ALLOWED)
    assert set(free.count.sni) == set(CALLED)
    assert set(held.count.sni) == set(ALLOWED)
    assert held.count.connections == len(ALLOWED) * clients


@pytest.fixture
def kept(stage: GateStage, guard: Guard) -> Iterator[Kept]:
    """A workload in the bed's client namespace that has asked nothing yet."""
    with keep_gate(guard, stage.bed, stage.resolver, *SHOP) as it:
        stage.resolver.reset()
        yield it


@dataclass(frozen=True)
class Dug:
    """What dig shows of an answer."""

    text: str

    @property
    def status(self) -> str:
        """Such as NXDOMAIN."""
        return self._one(r"status: (\w+)")

    @property
    def flags(self) -> list[str]:
        """Of the header."""
        return self._one(r";; flags: ([a-z ]*);").split()

    @property
    def data(self) -> list[str]:
        """Of every record of every section, without its name, life and class."""
        return re.findall(r"^[^;\s]\S*\s+\d+\s+IN\s+(.*)", self.text.replace("\t", " "), re.MULTILINE)

    @property
    def server(self) -> str:
        """Who answered, and how; dig takes no answer from anybody but whom it asked."""
        return self._one(r";; SERVER: \S*\((\S*)\) \((?:UDP|TCP)\)") + " " + self._one(r";; SERVER: .* \((\w+)\)")

    @property
    def error(self) -> str:
        """The Extended DNS Error."""
        found = re.search(r"EDE: (.*)", self.text)
        return found[1] if found else ""

    def _one(self, pattern: str) -> str:
        found = re.search(pattern, self.text)
        assert found, self.text
        return found[1]


@pytest.fixture
def dig(stage: GateStage, kept: Kept) -> Callable[..., Dug]:
    """dig, in the workload; it asks an address where nobody is."""
    if not shutil.which("dig"):
        pytest.skip("dig is not installed here")

    def call(*words: str) -> Dug:
        lines = (f"nameserver {NOBODY4}",)
        return Dug(stage.finish(["dig", *words], cgroup=kept.workload.cgroup, lines=lines).stdout)

    return call


@pytest.mark.parametrize("transport", ["UDP", "TCP"])
@pytest.mark.parametrize("server", [NOBODY4, NOBODY6, "8.8.8.8", "127.0.0.53", "::1"])
def test_dig_is_answered_by_whom_it_asked(
    dig: Callable[..., Dug], stage: GateStage, server: str, transport: str
) -> None:
    """Wherever it asks, over either transport, and it is the resolver of the policy that was asked in the end."""
    dug = dig(f"@{server}", f"+{'no' if transport == 'UDP' else ''}tcp", ALLOWED[0])
    assert (dug.status, dug.data) == ("NOERROR", [f"A {stage.shop.address4}"])
    assert dug.server == f"{server} {transport}"
    assert [(asked.name, asked.kind) for asked in stage.resolver.questions()] == [(ALLOWED[0], "A")]


@pytest.mark.parametrize(("source", "server"), [("198.51.100.1", NOBODY4), ("2001:db8:1::1", NOBODY6)])
@pytest.mark.parametrize("transport", ["UDP", "TCP"])
def test_dig_may_bind_its_socket(dig: Callable[..., Dug], source: str, server: str, transport: str) -> None:
    """To the address of the uplink, though the gate is on loopback."""
    dug = dig("-b", source, f"@{server}", f"+{'no' if transport == 'UDP' else ''}tcp", ALLOWED[0])
    assert (dug.status, dug.server) == ("NOERROR", f"{server} {transport}")


def test_dig_shows_why_a_name_is_denied(dig: Callable[..., Dug], stage: GateStage) -> None:
    """In words, with the policy and the reason; nothing of it for a name that is allowed."""
    dug = dig(DENIED)
    assert (dug.status, dug.data) == ("NXDOMAIN", [])
    assert dug.error.startswith("15 (Blocked): (exeat: no rule allows this name")
    assert dug.error.endswith("[name_not_allowed; policy test])")
    assert stage.resolver.questions() == []
    assert dig(ALLOWED[0]).error == ""


def test_an_answer_too_long_for_dig_comes_over_tcp(dig: Callable[..., Dug]) -> None:
    """First truncated, then whole; where the buffer is large enough, at once."""
    cut = dig("+bufsize=512", "+ignore", LARGE)
    assert "tc" in cut.flags
    assert cut.data == []
    again = dig("+bufsize=512", LARGE)
    assert "retrying in TCP mode" in again.text
    assert len(set(again.data)) == LARGE_COUNT
    assert again.server == f"{NOBODY4} TCP"
    whole = dig("+bufsize=1232", LARGE)
    assert sorted(whole.data) == sorted(again.data)
    assert (whole.server, "tc" in whole.flags) == (f"{NOBODY4} UDP", False)
    assert "retrying in TCP mode" in dig("+noedns", LARGE).text


def test_edns_is_answered_where_it_was_spoken(dig: Callable[..., Dug]) -> None:
    """Also to a denial; without EDNS there is no place for the explanation."""
    for name, status in ((ALLOWED[0], "NOERROR"), (DENIED, "NXDOMAIN")):
        with_edns, without = dig(name), dig("+noedns", name)
        assert with_edns.status == without.status == status
        assert with_edns.data == without.data
        assert ("OPT PSEUDOSECTION" in with_edns.text, "OPT PSEUDOSECTION" in without.text) == (True, False)


def test_who_asks_for_signatures_gets_the_answer_and_no_promise(dig: Callable[..., Dug], stage: GateStage) -> None:
    """The gate validates nothing, so it never says AD, and it asks its upstream the same question as ever."""
    dug = dig("+dnssec", "+adflag", ALLOWED[0])
    assert (dug.status, dug.data) == ("NOERROR", [f"A {stage.shop.address4}"])
    assert "ad" not in dug.flags
    (asked,) = stage.resolver.questions()
    assert not dns.message.from_wire(asked.raw).ednsflags & dns.flags.DO


@pytest.mark.parametrize("kind", ["MX", "TXT", "ANY", "NS", "TYPE65280"])
def test_a_type_that_carries_text_gets_no_data(dig: Callable[..., Dug], stage: GateStage, kind: str) -> None:
    """Although the name is allowed, and the resolver would have something to say."""
    dug = dig("shop.test", kind)
    assert (dug.status, dug.data) == ("NOERROR", [])
    assert dug.error.endswith("[query_type; policy test])")
    assert stage.resolver.questions() == []
    assert dig("shop.test", "A").data == [f"A {stage.shop.address4}"]


def test_dns_types_opens_a_type_for_a_name_that_stands_in_a_rule(
    dig: Callable[..., Dug], kept: Kept, stage: GateStage
) -> None:
    """Not for names that only a wildcard covers, and not for other types."""
    kept.switch(*SHOP, dns=DnsSettings(types=(QUERY_TYPES["MX"],)))
    assert dig("shop.test", "MX").data == ["MX 10 mail.else.test."]
    assert [asked.kind for asked in stage.resolver.questions()] == ["MX"]
    assert dig(ALLOWED[0], "MX").error.endswith("[query_type; policy test])")
    assert dig("shop.test", "TXT").data == []
    assert dig(DENIED, "MX").status == "NXDOMAIN"
    assert [asked.kind for asked in stage.resolver.questions()] == ["MX"]


def test_no_client_gets_keys_for_an_encrypted_hello(dig: Callable[..., Dug], stage: GateStage) -> None:
    """An HTTPS question of an allowed name is in order and has no data; nobody else is asked."""
    dug = dig(ALLOWED[0], "HTTPS")
    assert (dug.status, dug.data, dug.error) == ("NOERROR", [], "")
    assert dig(DENIED, "HTTPS").status == "NXDOMAIN"
    assert stage.resolver.questions() == []


def test_a_service_leads_to_its_host(dig: Callable[..., Dug], kept: Kept, stage: GateStage) -> None:
    """The target of an SRV answer resolves from then on, and can be connected to."""
    target = "mail.else.test"
    assert dig(target).status == "NXDOMAIN"
    assert dig("_imaps._tcp.shop.test", "SRV").data == [f"SRV 0 0 7 {target}."]

    def greet() -> bytes:
        with socket.create_connection((stage.shop.address4, 7), PLENTY_S) as sock:
            sock.sendall(b"hello")
            return sock.recv(64)

    with pytest.raises(PermissionError):
        call_in(stage.bed, greet, cgroup=kept.workload.cgroup)
    assert dig(target).data == [f"A {stage.shop.address4}"]
    assert call_in(stage.bed, greet, cgroup=kept.workload.cgroup).startswith(b"I am gate-shop")


def test_only_a_granted_address_has_a_name(dig: Callable[..., Dug], stage: GateStage) -> None:
    """The gate knows the names itself; a question about any other address is not asked anywhere."""
    for address in (stage.shop.address4, stage.shop.address6):
        dug = dig("-x", address)
        assert (dug.status, dug.error.split()[-3:-1]) == ("NXDOMAIN", ["[name_not_allowed;", "policy"])
    for name, kind, address in (("v4", "A", stage.shop.address4), ("v6", "AAAA", stage.shop.address6)):
        dig(f"{name}.shop.test", kind)
        assert dig("-x", address).data == [f"PTR {name}.shop.test."]
    assert dig("-x", "203.0.113.200").status == "NXDOMAIN"
    assert "PTR" not in {asked.kind for asked in stage.resolver.questions()}


QUESTION = dns.message.make_query(ALLOWED[0], "A").to_wire()
OTHER4, OTHER6 = "192.0.2.54", "2001:db8:53::54"
MAPPED, OTHER_MAPPED = f"::ffff:{NOBODY4}", f"::ffff:{OTHER4}"
PAIRS = [(NOBODY4, OTHER4), (NOBODY6, OTHER6), (MAPPED, OTHER_MAPPED), (MAPPED, NOBODY6), (NOBODY6, MAPPED)]


@pytest.fixture(params=PLACES)
def inside(request: pytest.FixtureRequest, stage: GateStage, guard: Guard) -> Iterator[Callable[..., Any]]:
    """Does something as a workload, in either place, and returns what it returns."""
    place = stage.container if request.param == "container" else stage.bed.network.client
    with keep_gate(guard, stage.bed, stage.resolver, *SHOP, namespace=place.fd) as kept:
        yield lambda act: call_in(stage.bed, act, cgroup=kept.workload.cgroup, at=place)


def asking(kind: socket.SocketKind, server: str) -> socket.socket:
    """A socket of the server's family that does not wait for ever."""
    sock = socket.socket(family_of(server), kind)
    sock.settimeout(PLENTY_S)
    return sock


@pytest.mark.parametrize(
    ("server", "peer"),
    [*((server, server) for server in (NOBODY4, NOBODY6, MAPPED)), ("0.0.0.0", "127.0.0.1"), ("::", "::1")],
)
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_connected_socket_has_the_peer_it_asked(
    inside: Callable[..., Any], server: str, peer: str, kind: socket.SocketKind
) -> None:
    """UDP and TCP: getpeername() says it, and so does recvfrom() of a datagram; no address is loopback to Linux."""

    def ask() -> list[object]:
        with asking(kind, server) as sock:
            sock.connect((server, 53))
            is_stream = kind == socket.SOCK_STREAM
            sock.sendall(len(QUESTION).to_bytes(2, "big") + QUESTION if is_stream else QUESTION)
            answer, sender = sock.recvfrom(4096)
            return [answer[2 * is_stream :][:2], sock.getpeername()[:2], None if is_stream else sender[:2]]

    here = (peer, 53)
    assert inside(ask) == [QUESTION[:2], here, here if kind == socket.SOCK_DGRAM else None]


@pytest.mark.parametrize("servers", PAIRS)
def test_an_unconnected_socket_hears_from_whom_it_asked(inside: Callable[..., Any], servers: tuple[str, str]) -> None:
    """Also when it asks another one then, over the other protocol too; recvmsg() says the same as recvfrom()."""

    def ask() -> list[object]:
        told = []
        with asking(socket.SOCK_DGRAM, servers[0]) as sock:
            for server in servers * 2:
                sock.sendto(QUESTION, (server, 53))
                told.append(sock.recvfrom(4096)[1][:2])
                sock.sendmsg([QUESTION], [], 0, (server, 53))
                told.append(sock.recvmsg(4096)[3][:2])
        return told

    asked = [(server, 53) for server in servers * 2 for _ in range(2)]
    assert inside(ask) == asked


@pytest.mark.parametrize("servers", PAIRS)
def test_two_servers_asked_at_once_on_one_socket_both_answer(
    inside: Callable[..., Any], servers: tuple[str, str]
) -> None:
    """As musl asks: two answers come, and from none but these servers (all seem to come from the last one asked)."""

    def ask() -> list[tuple[bytes, Any]]:
        with asking(socket.SOCK_DGRAM, servers[0]) as sock:
            for number, server in enumerate(servers):
                sock.sendto(bytes([0, number]) + QUESTION[2:], (server, 53))
            return sorted((answer[:2], sender[:2]) for answer, sender in (sock.recvfrom(4096) for _ in servers))

    told = inside(ask)
    assert [number for number, _ in told] == [b"\x00\x00", b"\x00\x01"]
    assert {sender for _, sender in told} <= {(server, 53) for server in servers}


SERVERS = {
    "several, of both protocols": (f"nameserver {NOBODY4}", f"nameserver {NOBODY6}", "nameserver 198.51.100.77"),
    "IPv6 only": (f"nameserver {NOBODY6}",),
    "a stub that does not run": ("nameserver 127.0.0.53", "options edns0 trust-ad"),
    "all at once": (f"nameserver {NOBODY4}", f"nameserver {OTHER4}", "options rotate single-request-reopen"),
    "over TCP": (f"nameserver {NOBODY4}", "options use-vc"),
    "many dots": (f"nameserver {NOBODY4}", "search shop.test else.test", "options ndots:5"),
}


@pytest.mark.parametrize("lines", SERVERS.values(), ids=SERVERS)
def test_every_client_gets_along_with_every_resolv_conf(kept: Kept, stage: GateStage, lines: tuple[str, ...]) -> None:
    """Whoever it names; what a search list makes of the name is denied, and asked of nobody."""
    ran = stage.finish(stage.driver(*ALLOWED, DENIED), cgroup=kept.workload.cgroup, lines=lines)
    for call in read_calls(ran.stdout):
        if call.name == DENIED:
            assert call.status not in (0, 124), call
        else:
            assert said(call.client, call.name) in call.output, call
    assert {asked.name for asked in stage.resolver.questions()} == set(ALLOWED)


SEARCHING = {  # those that know search lists; None: as before
    "getent": ["getent", "ahosts"],
    "dig": ["dig", "+search", "+short"],
    "python": [PYTHON, "-c", "import socket, sys; print(socket.getaddrinfo(sys.argv[1], 443))"],
    "node": ["node", "-e", 'require("dns").lookup(process.argv[1], console.log)'],
    "go": None,
    "musl": None,
}


@pytest.mark.parametrize("client", SEARCHING)
def test_a_search_list_completes_a_name(kept: Kept, stage: GateStage, client: str) -> None:
    """Past a domain that is denied: the completion in there does not exist, at once, and is asked of nobody."""
    if not is_installed(client):
        pytest.skip(f"the program behind {client!r} is not installed here")
    lines = (f"nameserver {NOBODY4}", "search else.test shop.test")
    argv = [*(SEARCHING[client] or stage.clients[client]), "v4", *([] if client == "dig" else [stage.ca_file])]
    ran = stage.finish(argv, cgroup=kept.workload.cgroup, lines=lines)
    assert stage.shop.address4 in ran.stdout or "I am gate-shop" in ran.stdout, ran
    assert {asked.name for asked in stage.resolver.questions()} == {"v4.shop.test"}
    assert "v4.else.test" in {record.name for record in kept.asked()}


@pytest.mark.parametrize("client", ["getent", "python", "dig"])
def test_a_container_without_ipv6_still_resolves(stage: GateStage, guard: Guard, client: str) -> None:
    """As Docker makes them: there is no ::1 to listen at, so a server with an IPv6 address is passed over at once."""
    lines = (f"nameserver {NOBODY6}", f"nameserver {NOBODY4}")
    argv = [*(SEARCHING[client] or ()), ALLOWED[0]]
    namespace = Namespace()
    try:
        namespace.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
        ip_batch(namespace, "link set lo up\n")
        with keep_gate(guard, stage.bed, stage.resolver, *SHOP, namespace=namespace.fd) as kept:
            began = time.monotonic()
            ran = stage.finish(argv, cgroup=kept.workload.cgroup, at=namespace, lines=lines)
        assert stage.shop.address4 in ran.stdout, ran
        assert time.monotonic() - began < PATIENCE_S, "it waited for an answer from where nobody can answer"
    finally:
        namespace.close()


def test_a_namespace_without_a_gate_asks_nobody(kept: Kept, stage: GateStage) -> None:
    """A workload that makes itself another network namespace is told so; where its gate is, the same question works."""

    def ask() -> object:
        with asking(socket.SOCK_DGRAM, stage.resolver.address4) as sock:
            sock.connect((stage.resolver.address4, 53))
            sock.send(QUESTION)
            return sock.recv(4096)[:2]

    kept.workload.told()
    with pytest.raises(PermissionError):
        call_in(stage.bed, ask, cgroup=kept.workload.cgroup, at=stage.container)
    assert (Verdict.ERROR, Reason.NO_GATE) in kept.workload.reasons()
    assert stage.resolver.count().is_untouched
    assert call_in(stage.bed, ask, cgroup=kept.workload.cgroup) == QUESTION[:2]
