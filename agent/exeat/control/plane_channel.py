"""One connection to a plane, and the two streams on it. Errors come as PlaneAway, with a sentence.

    async with PlaneChannel(endpoint, access, credentials) as channel:
        stream = channel.sync()
        await stream.say(pb.SyncRequest(hello=...))
        welcome = await stream.hear(within_s=20)

Messages come as bytes and are parsed here, because gRPC would only log that it cannot.
"""

import asyncio
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError

from exeat.control.plane_fields import has_too_many_fields
from exeat.control.plane_files import Credentials
from exeat.control.plane_words import sentence_of
from exeat.errors import ExeatError
from exeat.plane_access import Endpoint, PlaneAccess
from exeat.v1 import plane_pb2 as pb

MESSAGE_MAX = 32 << 20  # four of the largest documents
_SYNC = "/exeat.v1.Plane/Sync"
_REPORT = "/exeat.v1.Plane/Report"
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_send_message_length", MESSAGE_MAX),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),  # it would ask for TXT records
    ("grpc.use_local_subchannel_pool", 1),  # else the next channel could go on with this one's connection
    ("grpc.enable_retries", 0),
    # Beats come more often than this, so that no server sees too many pings.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class PlaneAway(ExeatError):
    """The plane cannot be talked to, or no longer; the text says why."""


class _Message(Protocol):
    def SerializeToString(self) -> bytes:  # noqa: N802
        """As it travels."""

    def ParseFromString(self, serialized: bytes) -> int:  # noqa: N802
        """As it has travelled."""


Said = TypeVar("Said", bound=_Message)
Heard = TypeVar("Heard", bound=_Message)


class Stream(Generic[Said, Heard]):
    """One of the two. Any task may speak; one listens."""

    def __init__(self, call: Any, heard: type[Heard], channel: "PlaneChannel") -> None:
        self.has_heard = False
        self._call = call
        self._heard = heard
        self._channel = channel
        self._ended_because = ""  # by this end
        self._speaking = asyncio.Lock()  # gRPC takes one message at a time

    async def say(self, message: Said, within_s: float | None = None) -> None:
        """Waits while the plane does not read, for ever or so long. Raises PlaneAway."""
        try:
            async with asyncio.timeout(within_s), self._speaking:
                await self._call.write(message.SerializeToString())
        except TimeoutError:
            raise self._no_plane(f"it has read nothing for {within_s:g} s") from None
        except (grpc.RpcError, asyncio.InvalidStateError) as error:  # the latter: it has ended already
            raise await self._why() from error

    async def hear(self, within_s: float) -> Heard:
        """The next message. Raises PlaneAway, also for silence, which ends the stream."""
        try:
            async with asyncio.timeout(within_s):
                raw = await self._call.read()
        except TimeoutError:
            raise self._no_plane(f"it has said nothing for {within_s:g} s") from None
        except grpc.RpcError as error:
            raise await self._why() from error
        if not isinstance(raw, bytes):
            raise await self._why()
        if has_too_many_fields(raw):
            raise self._no_plane("what it sends has more parts than any message of exeat.v1")
        message = self._heard()
        try:
            message.ParseFromString(raw)
        except DecodeError:
            raise self._no_plane(f"what it sends is no {self._heard.__name__} of exeat.v1") from None
        self.has_heard = True
        return message

    def end(self) -> None:
        """No more of it."""
        self._call.cancel()

    def _no_plane(self, why: str) -> PlaneAway:
        """Ends it. Another task, which speaks at this moment, is told the same."""
        self._ended_because = self._ended_because or why
        self.end()
        return PlaneAway(f"plane {self._channel.endpoint}: {self._ended_because}")

    async def _why(self) -> PlaneAway:
        if self._ended_because:
            return self._no_plane(self._ended_because)
        code, details = await self._call.code(), await self._call.details()
        return PlaneAway(sentence_of(code, details or "", self._channel.endpoint, self._channel.access))


class PlaneChannel:
    """Both streams share its connection; leaving it ends them."""

    def __init__(self, endpoint: Endpoint, access: PlaneAccess, credentials: Credentials) -> None:
        self.endpoint = endpoint
        self.access = access
        self.welcomed = asyncio.Event()  # Sync sets it when the plane has taken the agent in; Report begins then
        self._report: Stream[pb.ReportRequest, pb.ReportResponse] | None = None
        name = access.server_name or endpoint.host
        ssl = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.certificate)
        # It is what the certificate is checked for. Given always: what gRPC makes of an address by itself varies.
        options = [*_OPTIONS, ("grpc.ssl_target_name_override", name)]
        self._channel: Any = grpc.aio.secure_channel(f"dns:///{endpoint}", ssl, options=options)

    async def __aenter__(self) -> "PlaneChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def sync(self) -> Stream[pb.SyncRequest, pb.SyncResponse]:
        """Opens the stream of policies and commands."""
        return Stream(self._channel.stream_stream(_SYNC)(), pb.SyncResponse, self)

    def report(self) -> Stream[pb.ReportRequest, pb.ReportResponse]:
        """Opens the stream of verdicts."""
        self._report = Stream[pb.ReportRequest, pb.ReportResponse](
            self._channel.stream_stream(_REPORT)(), pb.ReportResponse, self
        )
        return self._report

    @property
    def is_reporting(self) -> bool:
        """Whether the plane takes verdicts, or did last."""
        return bool(self._report and self._report.has_heard)
