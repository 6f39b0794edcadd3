"""The hosts tell the truth: who answered, and what arrived."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Callable

from bed import Bed, Host, Tcp, Tls, call_in, curl, run_in


def exchange(address: str, port: int, payload: bytes) -> bytes:
    """Connect, send, shut down, and read what comes until the end."""
    with socket.create_connection((address, port), timeout=2) as sock:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def test_each_of_three_hosts_answers_curl_with_its_own_name_over_ipv4_and_ipv6() -> None:
    """Both families reach the right server, and the counts agree with what was recorded."""
    with Bed() as bed:
        hosts = [bed.add(f"{label}.test") for label in ("apple", "pear", "plum")]
        for host in hosts:
            for address in (host.address4, host.address6):
                done = curl(bed, host, address)
                assert (done.returncode, done.stdout, done.stderr) == (0, f"I am {host.name}\n", "")
        for host in hosts:
            counts = host.count()
            assert (counts.connections, counts.sni) == (2, [host.name, host.name])
            assert counts.bytes == len(host.received(0)) + len(host.received(1))
            assert host.received(0)[0] == 0x16
            assert host.name.encode() in host.received(0)


def test_a_bed_is_up_quickly() -> None:
    """The bar is 0.5 s on an idle machine (0.08 s measured); twice that here, for CI is not idle."""
    began = time.monotonic()
    with Bed() as bed:
        bed.add("quick.test")
        assert time.monotonic() - began < 1.0


def test_a_host_asked_with_another_name_still_says_its_own(bed: Bed, new_host: Callable[..., Host]) -> None:
    """So a test can send an allowed SNI to a wrong address and see who answered."""
    host = new_host()
    done = run_in(bed, ["curl", "-sk", "--resolve", f"other.test:443:{host.address4}", "https://other.test/"])
    assert done.stdout == f"I am {host.name}\n"
    assert host.count().sni == ["other.test"]


def test_a_host_of_several_names_answers_with_the_name_asked_for(bed: Bed, new_host: Callable[..., Host]) -> None:
    """Two virtual hosts at one address, as on a shared CDN."""
    host = new_host(Tls(names=("one.test", "two.test")))
    assert curl(bed, host, name="two.test").stdout == "I am two.test\n"
    assert curl(bed, host, name="one.test").stdout == "I am one.test\n"


def test_an_untouched_host_has_counted_nothing_and_reset_makes_it_untouched(
    bed: Bed, new_host: Callable[..., Host]
) -> None:
    """The state a denial test asserts can be told from every other."""
    host = new_host()
    assert host.count().is_untouched
    curl(bed, host)
    assert not host.count().is_untouched
    host.reset()
    assert host.count().is_untouched


def test_echo_sink_record_and_http_each_keep_to_their_behaviour(bed: Bed, new_host: Callable[..., Host]) -> None:
    """What each answers, and that all count and record the same bytes."""
    host = new_host(Tcp(7), Tcp(9, "sink"), Tcp(11, "record"), Tcp(80, "http"))
    name = f"I am {host.name}\n".encode()
    bulk = os.urandom(300_000)
    assert call_in(bed, lambda: exchange(host.address4, 7, bulk)) == name + bulk
    assert call_in(bed, lambda: exchange(host.address6, 9, bulk)) == name
    assert call_in(bed, lambda: exchange(host.address6, 11, bulk)) == b""
    assert call_in(bed, lambda: exchange(host.address4, 80, b"GET / HTTP/1.1\r\n\r\n")).endswith(name)
    assert host.received(2) == bulk
    assert host.count().bytes == 3 * len(bulk) + 18


def test_a_host_can_have_a_famous_address(bed: Bed, new_host: Callable[..., Host]) -> None:
    """Public resolvers and the metadata address exist inside the bed only."""
    host = new_host(also=("8.8.8.8", "169.254.169.254", "2001:4860:4860::8888"))
    for address in host.also:
        assert curl(bed, host, address).stdout == f"I am {host.name}\n"


def test_a_host_with_one_rare_group_sends_hello_retry_request(bed: Bed, new_host: Callable[..., Host]) -> None:
    """Two ClientHellos by the client's own account, two server names by OpenSSL's, two in the raw bytes."""
    host = new_host(Tls(groups="secp384r1"))
    target = ["-connect", f"{host.address4}:443", "-servername", host.name]
    done = run_in(bed, ["openssl", "s_client", "-msg", *target])
    assert done.stdout.count("ClientHello") == 2
    assert host.count().sni == [host.name, host.name]
    assert host.received().count(host.name.encode()) == 2


def test_a_name_switched_in_the_second_hello_is_told(bed: Bed, new_host: Callable[..., Host]) -> None:
    """The switch that exeat must see (EVASIONS A5) works against this OpenSSL, and the host reports both names."""
    host = new_host(Tls(names=("allowed.test", "another.test"), groups="secp384r1"))

    def switch() -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="allowed.test")
        with socket.create_connection((host.address4, 443), timeout=2) as sock:
            for name in (b"allowed.test", b"another.test"):
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                sock.sendall(outgoing.read().replace(b"allowed.test", name))
                answer = sock.recv(1 << 16)
                incoming.write(answer)
        return answer

    assert len(call_in(bed, switch)) > 500  # the server's whole flight, for the second name
    assert host.count().sni == ["allowed.test", "another.test"]


def test_openssl_s_server_sends_hello_retry_request_and_switches_by_name(bed: Bed) -> None:
    """Both names, each with its own certificate, and the server's log as witness."""
    server = bed.openssl_server("first.test", "second.test", groups="P-384")
    for name in (server.name, server.second_name):
        target = ["-connect", f"{server.address4}:{server.port}", "-servername", name]
        done = run_in(bed, ["openssl", "s_client", "-CAfile", str(bed.authority.ca_file), *target])
        assert f"subject=CN = {name}" in done.stdout
        assert "Verify return code: 0" in done.stdout
    assert server.hellos() == 4
    assert server.names_seen() == ["first.test", "first.test", "second.test", "second.test"]
