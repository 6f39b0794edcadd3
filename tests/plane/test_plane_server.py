"""The plane's gRPC door: who gets in, what may be said, and what everybody else is told. Real sockets, real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from exeat.control.calls import snake
from exeat.control.plane_channel import PlaneAway, PlaneChannel
from exeat.control.plane_files import read_credentials
from exeat.control.plane_operations import PlaneOperations
from exeat.control.plane_server import HEARD_MAX, SERVICE, PlaneServer, serve_plane
from exeat.errors import ExeatError, KernelError, Refused, SocketError, StatusWord
from exeat.plane_access import PlaneAccess
from exeat.settings import Listen
from exeat.v1 import plane_pb2 as pb
from plane.certificates import Authority, authority
from plane.serving import ANY_PORT


@dataclass
class Operations:
    """Welcomes everybody and notes what is said; or fails, as a test says."""

    names: list[frozenset[str]] = field(default_factory=list)
    heard: list[pb.SyncRequest] = field(default_factory=list)
    failure: Exception | None = None
    ended: int = 0

    async def sync(
        self, names: frozenset[str], requests: AsyncIterator[pb.SyncRequest]
    ) -> AsyncGenerator[pb.SyncResponse, None]:
        """One answer for each message."""
        self.names.append(names)
        try:
            async for request in requests:
                if self.failure:  # not before: who is refused while it still speaks may not hear why
                    raise self.failure
                self.heard.append(request)
                yield pb.SyncResponse(welcome=pb.Welcome(plane="test", protocol=1, beat_s=10))
        finally:
            self.ended += 1

    async def report(
        self, names: frozenset[str], requests: AsyncIterator[pb.ReportRequest]
    ) -> AsyncGenerator[pb.ReportResponse, None]:
        """The same."""
        self.names.append(names)
        async for _ in requests:
            yield pb.ReportResponse(welcome=pb.ReportWelcome(through=7))


@dataclass
class Door:
    """A server with its operations, and who may come."""

    operations: Operations
    server: PlaneServer
    authority: Authority

    def channel(self, access: PlaneAccess | None = None) -> PlaneChannel:
        """To it, as a node with good papers if nothing else is said."""
        access = access or self.authority.node("node-1.test", self.server.port)
        return PlaneChannel(access.endpoints[0], access, read_credentials(access))


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Door]:
    """It listens as long as the block lasts."""
    vouching, operations = authority(directory / "papers"), Operations()
    server = await serve_plane(operations, ANY_PORT, vouching.plane)
    try:
        yield Door(operations, server, vouching)
    finally:
        await server.stop(0.5)


async def greet(channel: PlaneChannel) -> pb.SyncResponse:
    """Says hello; the answer."""
    stream = channel.sync()
    await stream.say(pb.SyncRequest(hello=pb.Hello(node="node-1.test")))
    return await stream.hear(5)


def test_the_operations_are_those_of_the_proto() -> None:
    """One for each, and no other."""
    methods = {name for name in vars(PlaneOperations) if not name.startswith("_")}
    assert methods == {snake(method.name) for method in SERVICE.methods}


def test_both_streams_carry_messages_and_the_names_of_the_certificate(tmp_path: Path) -> None:
    """DNS names and the common name, as they stand there."""

    async def talk() -> None:
        async with opened(tmp_path) as door:
            certificate, key = door.authority.signer.issue("Node-1.test", "second.test", "10.0.0.7")
            access = PlaneAccess(
                door.authority.node("x", door.server.port).endpoints, door.authority.ca, certificate, key
            )
            async with door.channel(access) as channel:
                assert (await greet(channel)).welcome.plane == "test"
                report = channel.report()
                await report.say(pb.ReportRequest(hello=pb.ReportHello(log="a")))
                assert (await report.hear(5)).welcome.through == 7
            assert door.operations.names == [frozenset({"Node-1.test", "second.test"})] * 2

    asyncio.run(talk())


def test_who_shows_no_good_certificate_reaches_nothing(tmp_path: Path) -> None:
    """None at all, one of another authority, one that has expired; the twin with a good one gets in."""

    async def talk() -> None:
        async with opened(tmp_path) as door:
            good = door.authority.node("node-1.test", door.server.port)
            other = authority(tmp_path / "others").node("node-1.test", door.server.port)
            foreign = PlaneAccess(good.endpoints, door.authority.ca, other.certificate, other.key)
            certificate, key = door.authority.signer.issue("node-1.test", file="expired", days=-1)
            expired = PlaneAccess(good.endpoints, door.authority.ca, certificate, key)
            for access in (foreign, expired):
                async with door.channel(access) as channel:
                    with pytest.raises(PlaneAway):
                        await greet(channel)
            bare = grpc.ssl_channel_credentials(door.authority.ca.read_bytes())
            async with grpc.aio.secure_channel(f"localhost:{door.server.port}", bare) as channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await channel.stream_stream("/exeat.v1.Plane/Sync")(iter([b""])).read()
            assert door.operations.names == []
            async with door.channel(good) as channel:
                assert (await greet(channel)).welcome.plane == "test"

    asyncio.run(talk())


def test_what_is_no_tls_ends_and_harms_nobody(tmp_path: Path) -> None:
    """Garbage, plain HTTP, a handshake that stops half-way, TLS with HTTP/1."""

    async def talk() -> None:
        async with opened(tmp_path) as door:
            where = ("127.0.0.1", door.server.port)
            half = await asyncio.to_thread(socket.create_connection, where)
            half.send(b"\x16\x03\x01\x02\x00\x01\x00")
            for garbage in (
                b"\xff" * 4096,
                b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ):
                assert await asyncio.to_thread(_answer_to, where, garbage) in (b"", None), garbage
            node = door.authority.node("node-1.test", door.server.port)
            context = ssl.create_default_context(cafile=str(door.authority.ca))
            context.load_cert_chain(node.certificate, node.key)
            answer = await asyncio.to_thread(_answer_to, where, b"GET / HTTP/1.1\r\n\r\n" * 9, context)
            assert b"200" not in (answer or b"")
            assert door.operations.names == []
            async with door.channel() as channel:
                assert (await greet(channel)).welcome.plane == "test"
            half.close()

    asyncio.run(talk())


def _answer_to(where: tuple[str, int], said: bytes, context: ssl.SSLContext | None = None) -> bytes | None:
    """What comes until the server hangs up; None: it has reset the connection. Fails if it does not hang up."""
    with socket.create_connection(where, 5) as plain:
        connection = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        try:
            connection.sendall(said)
            answer = b""
            while more := connection.recv(65536):
                answer += more
        except TimeoutError:
            pytest.fail(f"the server keeps a connection on which it heard {said[:20]!r}")
        except OSError:
            return None
        return answer


def test_frames_that_are_no_messages_end_their_stream_with_a_sentence(tmp_path: Path) -> None:
    """And no other stream, even on the same connection."""

    async def talk() -> None:
        async with opened(tmp_path) as door, door.channel() as channel:
            other = channel.sync()
            await other.say(pb.SyncRequest(hello=pb.Hello(node="node-1.test")))
            await other.hear(5)
            stream: Any = channel.sync()
            await stream._call.write(b"\xff\xff\xff")
            with pytest.raises(PlaneAway, match=r"this is no exeat\.v1\.SyncRequest"):
                await stream.hear(5)
            await other.say(pb.SyncRequest(beat=pb.AgentBeat(serial=3)))
            assert (await other.hear(5)).welcome.plane == "test"
            unknown: Any = channel.sync()
            await unknown._call.write(b"\xf8\x07\x01")  # field 127: of a newer agent
            assert (await unknown.hear(5)).welcome.plane == "test"
            assert door.operations.heard[-1].WhichOneof("said") is None
            with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
                await channel._channel.unary_unary("/exeat.v1.Plane/NoSuchThing")(b"")

    asyncio.run(talk())


def test_a_message_of_4_mib_passes_and_more_does_not(tmp_path: Path) -> None:
    """The bound is on what agents say."""

    async def talk() -> None:
        async with opened(tmp_path) as door, door.channel() as channel:
            for length, is_taken in ((HEARD_MAX - 100, True), (HEARD_MAX + 1, False)):
                stream = channel.sync()
                await stream.say(pb.SyncRequest(hello=pb.Hello(node="x" * length)))
                if is_taken:
                    assert (await stream.hear(10)).welcome.plane == "test"
                else:
                    with pytest.raises(PlaneAway, match="too large"):
                        await stream.hear(10)
            assert len(door.operations.heard) == 1

    asyncio.run(talk())


@pytest.mark.parametrize("word", StatusWord)
def test_a_refusal_keeps_its_word_and_sentence(tmp_path: Path, word: StatusWord) -> None:
    """From the operation to the agent."""

    async def talk() -> None:
        async with opened(tmp_path) as door, door.channel() as channel:
            door.operations.failure = Refused(word, "not so: `naïve`")
            call = channel._channel.stream_stream("/exeat.v1.Plane/Sync")()
            await call.write(b"")
            assert (await call.code(), await call.details()) == (grpc.StatusCode[word.value], "not so: `naïve`")

    asyncio.run(talk())


def test_a_failure_is_told_and_a_bug_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a bug holds stays in the log."""

    async def talk() -> None:
        async with opened(tmp_path) as door, door.channel() as channel:
            door.operations.failure = KernelError("the disk is full: make room")
            with pytest.raises(PlaneAway, match="the disk is full: make room"):
                await greet(channel)
            door.operations.failure = ZeroDivisionError("secret")
            with pytest.raises(PlaneAway, match="journalctl -u exeat-plane") as caught:
                await greet(channel)
            assert "secret" not in str(caught.value)

    asyncio.run(talk())
    assert "secret" in caplog.text


def test_a_renewed_certificate_is_taken_without_a_restart(tmp_path: Path) -> None:
    """By new connections; half of a pair is waited for, and an open connection goes on."""

    async def talk() -> None:
        async with opened(tmp_path) as door:
            files, where = door.authority.plane, ("127.0.0.1", door.server.port)
            node = door.authority.node("node-1.test", door.server.port)
            context = ssl.create_default_context(cafile=str(door.authority.ca))
            context.load_cert_chain(node.certificate, node.key)
            first = await asyncio.to_thread(_serial_at, where, context)
            async with door.channel() as channel:
                await greet(channel)
                certificate, key = door.authority.signer.issue("localhost", "127.0.0.1", file="renewed")
                shutil.copy(certificate, files.certificate)
                assert await asyncio.to_thread(_serial_at, where, context) == first
                shutil.copy(key, files.key)
                assert await asyncio.to_thread(_serial_at, where, context) != first
                await greet(channel)
            async with door.channel() as channel:
                await greet(channel)

    asyncio.run(talk())


def _serial_at(where: tuple[str, int], context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(where, 5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        found = connection.getpeercert()
        assert found
        return str(found["serialNumber"])


def test_an_agent_that_goes_ends_its_operation(tmp_path: Path) -> None:
    """However it goes."""

    async def talk() -> None:
        async with opened(tmp_path) as door:
            for number in (1, 2):
                async with door.channel() as channel:
                    stream = channel.sync()
                    await stream.say(pb.SyncRequest(hello=pb.Hello(node="node-1.test")))
                    await stream.hear(5)
                    if number == 1:
                        stream.end()
                async with asyncio.timeout(5):
                    while door.operations.ended < number:
                        await asyncio.sleep(0.01)

    asyncio.run(talk())


def test_where_it_cannot_listen_it_says_so(tmp_path: Path) -> None:
    """And without files that will do, which of them."""

    async def talk() -> None:
        async with opened(tmp_path) as door:
            taken = Listen(ANY_PORT.address, door.server.port)
            with pytest.raises(SocketError, match=r"name another `agents.listen`"):
                await serve_plane(door.operations, taken, door.authority.plane)
            door.authority.plane.certificate.write_text("nothing")
            with pytest.raises(ExeatError, match=r"plane\.crt and .*plane\.key are no certificate"):
                await serve_plane(door.operations, ANY_PORT, door.authority.plane)

    asyncio.run(talk())
