"""How an agent reaches its plane: names and certificates are checked, files are followed, nothing burns for ever."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from exeat.control.backoff import Backoff
from exeat.control.plane_client import PlaneAway, PlaneChannel, PlaneClient
from exeat.control.plane_files import read_credentials
from exeat.errors import ExeatError
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.v1 import plane_pb2 as pb
from unit.fake_plane import NODE, FakePlane, TestAuthority, papers
from unit.fleet_words import until


async def greet(access: PlaneAccess, within_s: float = 20.0) -> str:
    """Says hello, once: the plane's name, or why there is no talking with it."""
    endpoint = access.endpoints[0]
    try:
        async with PlaneChannel(endpoint, access, read_credentials(access)) as channel:
            stream = channel.sync()
            await stream.say(pb.SyncRequest(hello=pb.Hello(node=NODE)))
            return (await stream.hear(within_s)).welcome.plane
    except PlaneAway as error:
        who, _, why = str(error).partition(": ")
        return why if who == f"plane {endpoint}" else str(error)


async def greeting(change: Callable[[PlaneAccess], PlaneAccess], **plane: Any) -> str:
    """The same with a plane of its own."""
    async with FakePlane(**plane) as running:
        return await greet(change(papers().access(running.port)))


def unchanged(access: PlaneAccess) -> PlaneAccess:
    """As it should be."""
    return access


def test_who_knows_each_other_talks() -> None:
    """By address and by name; every refusal below has this twin."""

    async def talk() -> None:
        async with FakePlane() as plane:
            access = papers().access(plane.port)
            assert await greet(access) == "fake"
            for host in ("localhost", "127.0.0.1"):
                assert await greet(replace(access, endpoints=(Endpoint(host, plane.port),))) == "fake"
            assert await greet(replace(access, server_name="localhost")) == "fake"

    asyncio.run(talk())


def test_a_plane_of_another_authority_is_none(tmp_path: Path) -> None:
    """Somebody who got hold of its address only."""
    other = TestAuthority(tmp_path)
    why = asyncio.run(greeting(lambda access: replace(access, ca=other.ca)))
    assert why == f"its certificate is not vouched for by {other.ca}: is this the plane?"
    other = TestAuthority(tmp_path, "another name")
    why = asyncio.run(greeting(lambda access: replace(access, ca=other.ca)))
    assert why == f"its certificate is not vouched for by {other.ca}: is this the plane?"


def test_a_certificate_for_another_name_is_none() -> None:
    """Whoever the authority vouches for is not yet the plane."""
    why = asyncio.run(greeting(lambda access: replace(access, server_name="other.test")))
    assert why == "its certificate is not for other.test: is this the plane?"
    why = asyncio.run(greeting(unchanged, server=papers().node))
    assert why == "its certificate is not for 127.0.0.1: is this the plane?"


def test_a_certificate_that_has_expired_is_none(tmp_path: Path) -> None:
    """The plane's, and the node's, which the plane does not take."""
    authority = TestAuthority(tmp_path)
    old, node = authority.issue("127.0.0.1", file="old", days=-1), authority.issue(NODE)
    known = {"ca": authority.ca, "certificate": node[0], "key": node[1]}
    why = asyncio.run(greeting(lambda access: replace(access, **known), server=old, ca=authority.ca))
    assert "has expired" in why
    why = asyncio.run(greeting(lambda access: replace(access, certificate=old[0], key=old[1])))
    assert why == f"it hung up: is {old[0]} still valid, and of an authority that the plane trusts?"


def test_a_plane_that_asks_for_no_certificate_is_still_checked_itself() -> None:
    """To know its agents is the plane's matter; to know the plane is ours."""
    assert asyncio.run(greeting(unchanged, asks_for_certificate=False)) == "fake"
    named = replace(papers().access(1), server_name="other.test")
    why = asyncio.run(greeting(lambda access: replace(named, endpoints=access.endpoints), asks_for_certificate=False))
    assert "is not for other.test" in why


def test_nothing_is_ever_said_in_the_clear() -> None:
    """A plane without TLS, another service, and nobody at all."""

    async def talk() -> None:
        heard: list[bytes] = []

        async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append(await reader.read(1000))
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(web, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        assert "does not speak TLS" in await greet(papers().access(port))
        assert NODE.encode() not in b"".join(heard)
        server.close()
        await server.wait_closed()
        assert await greet(papers().access(port)) == "nobody listens there: does the plane run?"

    assert "does not speak TLS" in asyncio.run(greeting(unchanged, server=None))
    asyncio.run(talk())


def test_garbage_ends_in_a_sentence() -> None:
    """Inside of good TLS: bytes that are no message, and an end without one."""

    async def garbage(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        await anext(requests)  # who is refused while it still speaks may not hear why
        yield b"\xff" * 100

    async def nothing(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        await anext(requests)
        return
        yield b""

    assert asyncio.run(greeting(unchanged, sync=garbage)) == "what it sends is no SyncResponse of exeat.v1"
    assert asyncio.run(greeting(unchanged, sync=nothing)) == "it has ended the conversation"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("PERMISSION_DENIED", "it does not let this node in: the node is retired"),
        ("UNAUTHENTICATED", "it does not know this node by"),
        ("FAILED_PRECONDITION", "no protocol in common"),
        ("UNAVAILABLE", "the node is retired"),
        ("ALREADY_EXISTS", "another agent has connected as this node"),
    ],
)
def test_a_refusal_of_the_planes_is_told(code: str, words: str) -> None:
    """With its own sentence."""
    import grpc

    async def refuse(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await anext(requests)
        await context.abort(grpc.StatusCode[code], "the node is retired\x1b[31m")
        yield b""

    why = asyncio.run(greeting(unchanged, sync=refuse))
    assert words in why
    assert why.isprintable()


def test_a_plane_that_does_not_answer_is_waited_for_and_left() -> None:
    """It takes the stream and says nothing."""

    async def mute(_requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        await asyncio.sleep(30)
        yield b""

    async def talk() -> None:
        async with FakePlane(sync=mute) as plane:
            assert await greet(papers().access(plane.port), 0.5) == "it has said nothing for 0.5 s"

    asyncio.run(talk())


@pytest.mark.parametrize("what", ["ca", "certificate", "key", "pair", "missing"])
def test_files_that_will_not_do_are_named(tmp_path: Path, what: str) -> None:
    """Before anything is sent."""
    access = papers().access(1)
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    if what == "pair":
        access = replace(access, key=papers().server[1])
    elif what == "missing":
        access = replace(access, key=tmp_path / "nowhere")
    else:
        access = replace(access, **{what: bad})
    with pytest.raises(ExeatError) as caught:
        read_credentials(access)
    named = {"pair": "do not belong together", "missing": "nowhere: No such file"}.get(what, "bad.pem")
    assert named in str(caught.value)
    read_credentials(papers().access(1))


# Keeping connected


@dataclass
class Talker:
    """Says hello and stays, or leaves at once."""

    stays: bool = True
    endpoints: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    async def talk(self, channel: PlaneChannel) -> None:
        """Notes where it is."""
        stream = channel.sync()
        await stream.say(pb.SyncRequest(hello=pb.Hello(node=NODE)))
        await stream.hear(20)
        self.endpoints.append(str(channel.endpoint))
        self.times.append(time.monotonic())
        channel.welcomed.set()
        if self.stays:
            while True:
                await stream.hear(20)


@dataclass
class Kept:
    """A client that runs."""

    talker: Talker
    access: PlaneAccess
    report: Any = None
    away: list[str] = field(default_factory=list)

    async def __aenter__(self) -> Kept:
        self.client = PlaneClient(self.access, self.talker, self.report, lambda _, why: self.away.append(why))
        self._task = asyncio.create_task(self.client.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def test_the_next_endpoint_is_tried_when_one_is_away() -> None:
    """And the first again later."""

    async def talk() -> None:
        async with FakePlane() as one, FakePlane() as two:
            access = papers().access(1)
            ports = [1, one.port, two.port]
            access = replace(access, endpoints=tuple(Endpoint("127.0.0.1", port) for port in ports))
            async with Kept(Talker(), access) as kept:
                await until(lambda: kept.talker.endpoints == [f"127.0.0.1:{one.port}"])
                assert "127.0.0.1:1: nobody listens" in kept.away[0]
                await one.hang_up()
                await until(lambda: kept.talker.endpoints[1:] == [f"127.0.0.1:{two.port}"])

    asyncio.run(talk())


def test_a_plane_that_closes_at_once_for_ever_is_asked_less_and_less_often() -> None:
    """No more than a few times in three seconds, and without work in between."""

    async def talk() -> None:
        async with FakePlane() as plane, Kept(Talker(stays=False), papers().access(plane.port)) as kept:
            busy = time.process_time()
            await asyncio.sleep(3)
            assert 1 <= len(kept.talker.times) < 12
            assert time.process_time() - busy < 1
            assert all("conversation has ended" in why for why in kept.away)

    asyncio.run(talk())


def test_the_wait_doubles_up_to_a_minute_and_is_a_random_part_of_it() -> None:
    """So that a fleet does not come back as one."""
    longest = Backoff(chance=lambda: 1.0)
    assert [longest.next_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    longest.reset()
    assert longest.next_s() == 1
    assert Backoff(chance=lambda: 0.25).next_s() == 0.25
    assert len({Backoff().next_s() for _ in range(20)}) == 20


def test_new_certificate_files_are_taken_without_a_restart(tmp_path: Path) -> None:
    """What is half written is waited for, and the connection goes on."""
    access = papers().access(0)
    certificate, key = tmp_path / "node.crt", tmp_path / "node.key"
    shutil.copy(access.certificate, certificate)
    shutil.copy(access.key, key)

    async def talk() -> None:
        async with FakePlane() as plane:
            here = replace(papers().access(plane.port), certificate=certificate, key=key)
            async with Kept(Talker(), here) as kept:
                await until(lambda: len(kept.talker.times) == 1)
                certificate.write_text("half")
                await until(lambda: "goes on with the certificate files as they were" in kept.client.trouble)
                assert kept.away == []
                shutil.copy(papers().server[0], certificate)
                shutil.copy(papers().server[1], key)
                await until(lambda: len(kept.talker.times) == 2)
                assert kept.away == []
                assert kept.client.trouble == ""

    asyncio.run(talk())


def test_reports_begin_after_the_welcome_and_fail_alone() -> None:
    """What goes wrong with them does not end the conversation about policies."""

    class Reporter:
        welcomes = 0

        async def talk(self, channel: PlaneChannel) -> None:
            assert channel.welcomed.is_set()
            stream = channel.report()
            await stream.say(pb.ReportRequest(hello=pb.ReportHello(node=NODE)))
            await stream.hear(5)
            self.welcomes += 1
            await asyncio.sleep(20)

    async def talk() -> None:
        taking = Reporter()
        async with FakePlane() as plane, Kept(Talker(), papers().access(plane.port), taking) as kept:
            await until(lambda: taking.welcomes == 1)
            assert kept.client.report_trouble == ""
        async with (
            FakePlane(takes_reports=False) as plane,
            Kept(Talker(), papers().access(plane.port), Reporter()) as kept,
        ):
            await until(lambda: "what answers there is no plane" in kept.client.report_trouble)
            assert kept.away == []
            assert len(kept.talker.times) == 1

    asyncio.run(talk())


def test_a_bug_in_a_talker_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """The client outlives it."""

    class Broken(Talker):
        async def talk(self, channel: PlaneChannel) -> None:
            self.times.append(time.monotonic())
            if len(self.times) == 1:
                raise ZeroDivisionError("secret")
            await super().talk(channel)

    async def talk() -> None:
        async with FakePlane() as plane, Kept(Broken(), papers().access(plane.port)) as kept:
            await until(lambda: bool(kept.talker.endpoints))
            assert "journalctl" in kept.away[0]
            assert "secret" not in kept.away[0]

    asyncio.run(talk())
    assert "ZeroDivisionError" in caplog.text


def test_an_agent_without_a_plane_loads_none_of_it() -> None:
    """Its memory has a bar."""
    names = ("exeat.agent.plane_end", "exeat.agent.fleet", "exeat.control.plane_channel", "cryptography")
    line = f"import sys, exeat.agent.daemon; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    line = line.replace("daemon", "plane_end", 1)  # the twin: with one they are there, and cryptography still is not
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "['exeat.agent.plane_end', 'exeat.agent.fleet', 'exeat.control.plane_channel']\n"
