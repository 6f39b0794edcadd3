"""Port 53, at whatever address and by whatever call: the gate answers, and no other resolver is asked.

Every way is tried outside first, where the resolver of the client's choosing answers with an address of its own.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import dns.message
import dns.rrset
import pytest

from bed import Bed, Dns, Host, call_in, start_in
from e2e import bypasses
from e2e.bypasses import BOTH_FAMILIES, ONLY_V4, PATIENCE_S, PORT, Way, framed, patient, question, read_framed
from e2e.escapes import got, says, tcp, udp
from e2e.gatekeeper import Kept, Said, fresh_resolver, keep_gate, read_answer
from e2e.guard import Guard, rule
from e2e.uring import is_disabled
from exeat.model.verdicts import Reason, Verdict

FORGED = "203.0.113.66"  # what the chosen server says of every name; nobody is there
RESOLVED, DENIED = (Verdict.FORWARDED, Reason.RESOLVED), (Verdict.DROPPED, Reason.NAME_NOT_ALLOWED)
WAYS = [pytest.param(way, version, id=f"{way.__name__}-v{version}") for way in BOTH_FAMILIES for version in (4, 6)]
WAYS += [pytest.param(way, 4, id=way.__name__) for way in ONLY_V4]


@pytest.fixture(scope="module")
def _chosen(bed: Bed) -> Host:
    return bed.add("chosen.test", Dns({"shop.test": [FORGED], "evil.test": [FORGED]}, fastopen=True))


@pytest.fixture
def chosen(_chosen: Host) -> Host:
    """The resolver that the client would rather ask; it has counted nothing yet."""
    _chosen.reset()
    return _chosen


@pytest.fixture
def kept(guard: Guard, bed: Bed, good: Host) -> Iterator[Kept]:
    """A workload that may ask for shop.test, and talk to `good` over plain TCP and UDP."""
    resolver = fresh_resolver(bed, {"shop.test": good.addresses, "evil.test": good.addresses})
    plain = rule(good.address4, good.address6, ports=(7,), protocol="tcp")
    datagrams = rule(good.address4, good.address6, ports=(5000,), protocol="udp")
    with keep_gate(guard, bed, resolver, rule(hosts=("shop.test",), protocol="tls"), plain, datagrams) as kept:
        yield kept


def said(answer: Any) -> Said:
    """What an answer says; a failure is shown as it is."""
    assert isinstance(answer, bytes), answer
    return read_answer(answer)


def of(host: Host, version: int) -> str:
    """One of a host's addresses."""
    return host.address4 if version == 4 else host.address6


@pytest.mark.parametrize(("way", "version"), WAYS)
def test_whoever_is_asked_the_gate_answers(
    kept: Kept, bed: Bed, chosen: Host, good: Host, way: Way, version: int
) -> None:
    """The allowed name resolves as the gate's upstream says, the denied one does not exist, nobody else is asked."""
    if "ring" in way.__name__ and is_disabled():
        pytest.skip("io_uring is switched off on this machine (kernel.io_uring_disabled)")
    server, allowed = of(chosen, version), of(good, version)

    def do(name: str) -> Callable[[], Any]:
        return lambda: got(lambda: way(server, allowed, question(name)))

    assert said(call_in(bed, do("evil.test"))).addresses == [FORGED]
    assert "evil.test" in [asked.name for asked in chosen.questions()]
    chosen.reset()

    assert said(kept.run(do("shop.test"))).addresses == [good.address4]
    assert set(kept.reasons()) == {RESOLVED}
    refused = said(kept.run(do("evil.test")))
    assert (refused.rcode, refused.addresses) == ("NXDOMAIN", [])
    assert "name_not_allowed" in refused.why
    assert set(kept.reasons()) == {DENIED}
    assert chosen.count().is_untouched
    assert {asked.name for asked in bed.host("resolver.test").questions()} == {"shop.test"}
    assert {verdict for verdict, _ in kept.workload.reasons()} <= {Verdict.FORWARDED}


@pytest.mark.parametrize("version", [4, 6])
def test_fast_open_carries_no_question_past_the_gate(kept: Kept, bed: Bed, chosen: Host, version: int) -> None:
    """The question travels in the SYN, before any program reads the connection: to the gate, or nowhere."""
    server = of(chosen, version)

    def do() -> Any:
        def ask() -> bytes:
            with patient(tcp(server)) as sock:
                sock.sendto(framed(question("evil.test")), socket.MSG_FASTOPEN, (server, PORT))
                return read_framed(sock)

        return got(ask)

    assert said(call_in(bed, do)).addresses == [FORGED]
    chosen.reset()
    answer = kept.run(do)
    assert not isinstance(answer, bytes) or said(answer).rcode == "NXDOMAIN"
    assert chosen.count().is_untouched
    assert said(kept.run(lambda: bypasses.over_tcp(server, "", question("shop.test")))).rcode == "NOERROR"


@pytest.mark.parametrize("kind", ["udp", "tcp"])
@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "127.0.0.53", "::", "::1", "::ffff:127.0.0.53"])
def test_a_resolver_on_loopback_is_not_asked(kept: Kept, bed: Bed, good: Host, address: str, kind: str) -> None:
    """A stub such as systemd-resolved, that would ask for anybody: outside its answer arrives, inside the gate's."""
    listening = {"0.0.0.0": "127.0.0.1", "::": "::1", "::ffff:127.0.0.53": "127.0.0.53"}.get(address, address)
    stream = kind == "tcp"

    def do(name: str, patience_s: float = PATIENCE_S) -> Callable[[], Any]:
        def ask() -> bytes:
            with (tcp if stream else udp)(address) as sock:
                sock.settimeout(patience_s)
                sock.connect((address, PORT))
                sock.sendall(framed(question(name)) if stream else question(name))
                return read_framed(sock) if stream else sock.recv(1 << 16)

        return lambda: got(ask)

    with closing(bed.network.client.call(lambda: listener(listening, stream))) as stub:
        assert call_in(bed, do("evil.test", 0.1)) == "TIMEOUT"  # it took the question, and is slow with answers
        assert heard(stub, stream)
        assert said(kept.run(do("shop.test"))).addresses == [good.address4]
        assert said(kept.run(do("evil.test"))).rcode == "NXDOMAIN"
        assert not heard(stub, stream)


def listener(address: str, is_stream: bool) -> socket.socket:
    """A server on port 53 that never says a word."""
    sock = (tcp if is_stream else udp)(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, PORT))
    if is_stream:
        sock.listen()
    sock.settimeout(0.05)
    return sock


def heard(sock: socket.socket, is_stream: bool) -> bool:
    """Whether anything came since the last time."""
    if not is_stream:
        return got(lambda: len(sock.recv(1 << 16))) not in ("TIMEOUT", "EAGAIN")
    taken = got(sock.accept)
    if isinstance(taken, tuple):
        taken[0].close()
    return isinstance(taken, tuple)


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_workloads_own_server_on_port_53_is_not_asked_either(kept: Kept, good: Host, kind: str) -> None:
    """It could answer anything, but no grant would come of that: the gate answers. On another port it is reached."""
    stream = kind == "tcp"

    def do() -> tuple[bool, Any, Any]:
        with listener("127.0.0.53", stream) as own, patient((tcp if stream else udp)("127.0.0.53")) as sock:
            sock.connect(("127.0.0.53", PORT))
            sock.sendall(framed(question("shop.test")) if stream else question("shop.test"))
            answer = read_framed(sock) if stream else sock.recv(1 << 16)
            is_heard = heard(own, stream)
        with patient((tcp if stream else udp)("127.0.0.53")) as own, (tcp if stream else udp)("127.0.0.53") as sock:
            own.bind(("127.0.0.53", 5300))
            if stream:
                own.listen()
            sock.connect(("127.0.0.53", 5300))
            sock.send(b"hello")
            other = own.accept()[0].recv(5) if stream else own.recv(5)
        return is_heard, answer, other

    is_heard, answer, other = kept.run(do)
    assert not is_heard
    assert said(answer).addresses == [good.address4]
    assert other == b"hello"


def test_a_corked_datagram_goes_where_it_was_judged(kept: Kept, bed: Bed, chosen: Host, good: Host) -> None:
    """Begun to an allowed host and finished to the resolver: all of it goes to the first, as the kernel promises."""

    def do() -> Any:
        with udp(good.address4) as sock:
            sock.sendto(b"hello ", socket.MSG_MORE, (good.address4, 5000))
            sock.sendto(question("evil.test"), 0, (chosen.address4, PORT))
            return got(lambda: sock.recv(1 << 16))

    for place in (lambda: call_in(bed, do), lambda: kept.run(do)):
        good.reset()
        assert place() == says(good)
        assert (good.count().datagrams, good.datagrams()[0][:6]) == (1, b"hello ")
        assert chosen.count().is_untouched


def test_an_answer_from_the_chosen_server_is_never_taken(kept: Kept, bed: Bed, chosen: Host, good: Host) -> None:
    """The server talks first, to a port that it was told another way: nothing is granted by it."""
    from_server = dns.message.make_response(dns.message.make_query("evil.test", "A"))
    from_server.answer.append(dns.rrset.from_text("evil.test.", 300, "IN", "A", good.address4))

    script = (
        "import socket, sys, time\nwith socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:\n"
        "    while True: sock.sendto(bytes.fromhex(sys.argv[1]), ('198.51.100.1', 40053)); time.sleep(0.05)\n"
    )

    def do() -> tuple[int, Any]:
        with patient(udp(chosen.address4)) as sock:
            sock.bind(("0.0.0.0", 40053))
            return len(sock.recv(1 << 16)), got(lambda: tcp(good.address4).connect((good.address4, 443)))

    argv = [sys.executable, "-c", script, from_server.to_wire().hex()]
    server = start_in(bed, argv, at=bed.network.hosts, stderr=subprocess.DEVNULL)
    try:
        assert kept.run(do) == (len(from_server.to_wire()), "EPERM")
    finally:
        server.kill()
        server.wait()
    assert kept.workload.reasons() == [(Verdict.DROPPED, Reason.PORT_NOT_ALLOWED)]  # of the address only port 7 is open
    assert said(kept.run(lambda: bypasses.connected(chosen.address4, "", question("shop.test")))).rcode == "NOERROR"
    assert kept.run(lambda: got(lambda: tcp(good.address4).connect((good.address4, 443)))) is None


def test_the_port_of_a_multi_destination_socket_follows_each_datagram(kept: Kept, chosen: Host, good: Host) -> None:
    """To the server, to an allowed host, to the server, to a denied port, on one socket: each goes its own way."""

    def do() -> list[Any]:
        answers: list[Any] = []
        with patient(udp(good.address4)) as sock:
            for to in ((chosen.address4, PORT), (good.address4, 5000), (chosen.address4, PORT)):
                sock.sendto(question("shop.test"), to)
                answers.append(sock.recvfrom(1 << 16))
            answers.append(got(lambda: sock.sendto(b"x", (good.address4, 5001))))
        return answers

    first, second, third, fourth = kept.run(do)
    for answer, sender in (first, third):
        assert (said(answer).addresses, sender) == ([good.address4], (chosen.address4, PORT))
    assert second == (says(good), (good.address4, 5000))
    assert fourth == "EPERM"
    assert (chosen.count().is_untouched, good.count().datagrams) == (True, 1)
