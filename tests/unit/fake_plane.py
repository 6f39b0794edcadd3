"""A plane for tests of the agent's end: a real gRPC server over real TLS, which says what a test tells it to say.

    async with FakePlane(papers) as plane:
        ... an agent connects to plane.port ...
        hello = await plane.heard("hello")
        await plane.say(pb.SyncResponse(push=...))

Papers are an authority, a server's and a node's certificate, made once per process.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import functools
import hashlib
import ipaddress
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from exeat.audit.signing import Signer
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.v1 import plane_pb2 as pb

NODE = "node-1.test"
SEED = bytes(range(32))


class TestAuthority:
    """Signs certificates into a directory."""

    __test__ = False

    def __init__(self, directory: Path, name: str = "exeat test authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None), ())
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(_pem(self._certificate))

    def issue(self, *names: str, file: str = "", days: int = 2) -> tuple[Path, Path]:
        """Certificate and key for DNS names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        constraints = x509.BasicConstraints(False, None)
        certificate = self._sign(subject, key.public_key(), constraints, names, days)
        chain, key_file = (self._directory / f"{file or names[0]}.{kind}" for kind in ("crt", "key"))
        chain.write_bytes(_pem(certificate))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return chain, key_file

    def _sign(
        self, subject: x509.Name, public: Any, constraints: x509.BasicConstraints, names: Iterable[str], days: int = 2
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        began = min(now, now + datetime.timedelta(days=days)) - datetime.timedelta(hours=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(constraints, critical=True)
        )
        if names:
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
            )
        return builder.sign(self._key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Papers:
    """Who is who."""

    ca: Path
    server: tuple[Path, Path]  # for localhost and 127.0.0.1
    node: tuple[Path, Path]

    def access(self, port: int, **how: Any) -> PlaneAccess:
        """What an agent's settings would say."""
        given = {"ca": self.ca, "certificate": self.node[0], "key": self.node[1], **how}
        return PlaneAccess((Endpoint("127.0.0.1", port),), **given)


@functools.cache
def papers() -> Papers:
    """Those of this process."""
    directory = Path(tempfile.mkdtemp(prefix="exeat-papers-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    authority = TestAuthority(directory)
    return Papers(authority.ca, authority.issue("localhost", "127.0.0.1", "::1"), authority.issue(NODE))


@dataclass
class FakePlane:
    """One server. `welcomes`: whether it answers a hello by itself. `sync`: what is called instead of all that."""

    server: tuple[Path, Path] | None = field(default_factory=lambda: papers().server)  # None: without TLS
    ca: Path = field(default_factory=lambda: papers().ca)
    port: int = 0
    asks_for_certificate: bool = True
    welcomes: bool = True
    takes_reports: bool = True
    welcome: pb.Welcome = field(default_factory=lambda: pb.Welcome(plane="fake", version="1", protocol=1, beat_s=1))
    sync: Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]] | None = None
    said: list[pb.SyncRequest] = field(default_factory=list)  # by agents
    streams: int = 0
    _server: Any = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _outbox: asyncio.Queue[pb.SyncResponse | None] = field(default_factory=asyncio.Queue)

    async def __aenter__(self) -> FakePlane:
        options = (("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1))
        self._server = grpc.aio.server(options=options)
        handlers = {"Sync": grpc.stream_stream_rpc_method_handler(self._answer)}
        if self.takes_reports:
            handlers["Report"] = grpc.stream_stream_rpc_method_handler(_take_reports)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("exeat.v1.Plane", handlers),))
        where = f"127.0.0.1:{self.port}"
        if self.server:
            chain, key = self.server
            credentials = grpc.ssl_server_credentials(
                [(key.read_bytes(), chain.read_bytes())],
                self.ca.read_bytes() if self.asks_for_certificate else None,
                self.asks_for_certificate,
            )
            self.port = self._server.add_secure_port(where, credentials)
        else:
            self.port = self._server.add_insecure_port(where)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    async def say(self, response: pb.SyncResponse) -> None:
        """To whichever agent is connected."""
        await self._outbox.put(response)

    async def hang_up(self) -> None:
        """Ends the stream."""
        await self._outbox.put(None)

    async def heard(self, case: str, count: int = 1, within_s: float = 10.0) -> Any:
        """Waits for so many messages of a kind in all; the last of them."""
        async with asyncio.timeout(within_s):
            while len(found := self.all(case)) < count:
                self._news.clear()
                await self._news.wait()
        return found[count - 1]

    def all(self, case: str) -> list[Any]:
        """Every message of a kind so far."""
        return [getattr(one, case) for one in self.said if one.WhichOneof("said") == case]

    async def _answer(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.streams += 1
        if self.sync:
            async for raw in self.sync(requests, context):
                yield raw
            return
        listening = asyncio.create_task(self._listen(requests))
        try:
            if self.welcomes:
                await self.heard("hello", self.streams)
                self.welcome.now.GetCurrentTime()
                yield pb.SyncResponse(welcome=self.welcome).SerializeToString()
            while True:
                try:
                    response = await asyncio.wait_for(self._outbox.get(), self.welcome.beat_s or 1)
                except TimeoutError:
                    response = pb.SyncResponse(beat=pb.PlaneBeat())
                    response.beat.now.GetCurrentTime()
                if response is None:
                    return
                yield response.SerializeToString()
        finally:
            listening.cancel()

    async def _listen(self, requests: AsyncIterator[bytes]) -> None:
        with suppress(grpc.RpcError):
            async for raw in requests:
                self.said.append(pb.SyncRequest.FromString(raw))
                self._news.set()


async def _take_reports(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    """Whatever comes is as good as stored."""
    async for raw in requests:
        request = pb.ReportRequest.FromString(raw)
        if request.WhichOneof("said") == "hello":
            welcome = pb.ReportWelcome(through=request.hello.after, batch_max=500, window=8)
            yield pb.ReportResponse(welcome=welcome).SerializeToString()
        else:
            yield pb.ReportResponse(ack=pb.ReportAck(through=request.batch.through)).SerializeToString()


def revision(text: str) -> str:
    """As the protocol has it."""
    return hashlib.sha256(text.encode()).hexdigest()


def signed(content: bytes, *, seed: bytes | None = SEED, what: bytes = b"exeat manifest v1\0") -> pb.Signed:
    """Signed as the protocol says, or unsigned."""
    if seed is None:
        return pb.Signed(content=content)
    signer = Signer(seed)
    key = hashlib.sha256(signer.public).hexdigest()[:16]
    return pb.Signed(content=content, signature=signer.sign(what + content), key=key)


def manifest(texts: dict[str, str], serial: int, *, node: str = NODE, valid_s: float = 3600) -> pb.Manifest:
    """Of policies by name."""
    holdings = [pb.Holding(name=name, revision=revision(text)) for name, text in sorted(texts.items())]
    made = pb.Manifest(node=node, serial=serial, policies=holdings)
    now = datetime.datetime.now(datetime.UTC)
    made.issued.FromDatetime(now)
    made.expires.FromDatetime(now + datetime.timedelta(seconds=valid_s))
    return made


def push(
    texts: dict[str, str], serial: int, nonce: str = "1", *, seed: bytes | None = SEED, **how: Any
) -> pb.PolicyPush:
    """All of it, with every document."""
    content = manifest(texts, serial, **how).SerializeToString()
    documents = [pb.PolicyDocument(revision=revision(text), text=text) for text in texts.values()]
    return pb.PolicyPush(nonce=nonce, manifest=signed(content, seed=seed), documents=documents)
