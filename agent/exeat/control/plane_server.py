"""The plane's end of the protocol: gRPC over TLS in which both ends show a certificate.

    server = await serve_plane(operations, listen, files)
    ...
    await server.stop(grace_s)

The files are looked at for each new connection, so that a renewed certificate needs no restart. What is half written
is waited for, and the old one goes on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from exeat.control.calls import short
from exeat.control.plane_fields import has_too_many_fields
from exeat.control.plane_files import Credentials, read_credentials, state_of
from exeat.control.plane_operations import PlaneOperations
from exeat.errors import ExeatError, Refused, SocketError, StatusWord
from exeat.plane_access import PlaneAccess
from exeat.settings import Listen
from exeat.v1 import plane_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Plane"]
HEARD_MAX = 4 << 20  # bytes of a message from an agent: 500 verdicts have a tenth of it
STREAMS_MAX = 20_000  # of all agents, two each
CONNECTIONS_MAX = 12_000
_SAID_MAX = 32 << 20  # as agents take it
_OPTIONS = (
    ("grpc.max_receive_message_length", HEARD_MAX),
    ("grpc.max_send_message_length", _SAID_MAX),
    ("grpc.max_concurrent_streams", 8),  # of one connection, which needs two
    ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # About a day: then certificates are looked at again, and a fleet spreads over the replicas that are there.
    ("grpc.max_connection_age_ms", 86_400_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # a client that pings more often is sent away
    ("grpc.so_reuseport", 0),
)
_BUG = "the plane failed at this; its log says how: journalctl -u exeat-plane"
_Context = grpc.aio.ServicerContext[Any, Any]
_Request = TypeVar("_Request", bound=Message)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlaneServer:
    """What `serve_plane` began."""

    port: int
    _grpc: grpc.aio.Server
    _streams: "_Streams"

    async def stop(self, grace_s: float) -> None:
        """Takes no more connections, and cuts off the streams that have not ended within the grace."""
        await self._grpc.stop(grace_s)


async def serve_plane(operations: PlaneOperations, listen: Listen, files: PlaneAccess) -> PlaneServer:
    """Listens for agents; port 0 is any free one. Keep what it returns: without it gRPC ends.

    Raises ExeatError for files that will not do, SocketError where it cannot listen.
    """
    renewal = _Renewal(files, read_credentials(files))
    fetch: Any = renewal.fetch  # may return None, which grpc's stubs do not know
    credentials = grpc.dynamic_ssl_server_credentials(_configuration(renewal.known), fetch, True)
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=STREAMS_MAX)
    streams = _Streams(operations)
    server.add_generic_rpc_handlers((streams.table(),))
    try:
        port = server.add_secure_port(str(listen), credentials)
    except RuntimeError as error:
        text = f"agents cannot be served on {listen}: name another `agents.listen`, or end who listens there"
        raise SocketError(text) from error
    await server.start()
    return PlaneServer(port, server, streams)


@dataclass(slots=True)
class _Renewal:
    """Called by gRPC, in any thread, for each connection."""

    files: PlaneAccess
    known: Credentials
    unfit: tuple[tuple[int, ...], ...] = ()  # the state of files that will not do: told once

    def fetch(self) -> "grpc.ServerCertificateConfiguration | None":
        """None: as before."""
        seen = state_of(self.files)
        if seen in (self.known.seen, self.unfit):
            return None
        try:
            self.known = read_credentials(self.files)
        except ExeatError as error:
            self.unfit = seen
            _log.warning("agents are served with the certificate files as they were: %s", error)
            return None
        _log.info("the certificate files for agents are new, and taken")
        return _configuration(self.known)


def _configuration(credentials: Credentials) -> "grpc.ServerCertificateConfiguration":
    pairs = [(credentials.key, credentials.certificate)]
    return grpc.ssl_server_certificate_configuration(pairs, credentials.ca)


@dataclass(slots=True)
class _Streams:
    """Every stream of one server."""

    operations: PlaneOperations
    open: set[asyncio.Task[Any]] = field(default_factory=set)

    def table(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """What gRPC calls; requests come as bytes, because a bad one is to be answered here."""
        methods = {
            "Sync": grpc.stream_stream_rpc_method_handler(self._stream(self.operations.sync, pb.SyncRequest)),
            "Report": grpc.stream_stream_rpc_method_handler(self._stream(self.operations.report, pb.ReportRequest)),
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)

    def _stream(
        self, operation: Callable[[frozenset[str], AsyncIterator[_Request]], Any], request_class: type[_Request]
    ) -> Callable[[AsyncIterator[bytes], _Context], AsyncIterator[bytes]]:
        async def answer(raws: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
            failure: Exception | None = None
            try:
                async with aclosing(operation(names_of(context), _parsed(raws, request_class))) as responses:
                    async for response in responses:
                        yield response.SerializeToString()
            except Exception as error:  # noqa: BLE001  # told and logged below, outside of the generator's clean-up
                failure = error
            if failure:
                await _fail(context, failure)

        return answer


def names_of(context: _Context) -> frozenset[str]:
    """DNS names and common name of the certificate, as they are: a node is called as it is written there."""
    shown = context.auth_context()
    found = [*shown.get("peer_dns", ()), *shown.get("x509_common_name", ())]
    return frozenset(one.decode("utf-8", "replace") for one in found)


async def _parsed(raws: AsyncIterator[bytes], request_class: type[_Request]) -> AsyncIterator[_Request]:
    async for raw in raws:
        if request_class is pb.SyncRequest and has_too_many_fields(raw):  # verdicts are many, and none of them is empty
            raise Refused(StatusWord.INVALID, "a message has more parts than the plane reads: send it in several")
        try:
            yield request_class.FromString(raw)
        except DecodeError:
            name = request_class.DESCRIPTOR.full_name
            raise Refused(StatusWord.INVALID, f"this is no {name}: speak the protocol of proto/exeat/v1") from None


async def _fail(context: _Context, error: Exception) -> None:
    if isinstance(error, Refused):
        await context.abort(grpc.StatusCode[error.word.value], short(str(error)))
    if isinstance(error, ExeatError):
        await context.abort(grpc.StatusCode.INTERNAL, short(str(error)))
    _log.error("a stream of an agent failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, _BUG)
