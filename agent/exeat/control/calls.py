"""gRPC's calls turned into the agent's operations, and what goes wrong in them into a status with a sentence."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from exeat.control.door import Door
from exeat.control.operations import Operations
from exeat.control.peer import Peer
from exeat.errors import ExeatError, Refused
from exeat.v1 import agent_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Agent"]
UNDER_WAY_MAX = 64  # operations, also those whose asker has gone
STREAMS_MAX = 32
OPERATION_S = 120.0  # then the asker is told that it goes on
_DETAILS_MAX = 6_000  # bytes as they travel: clients refuse more than 8 KiB of metadata
_BUG = "exeat failed at this; the agent's log says how: journalctl -u exeat"
_log = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]


def snake(name: str) -> str:
    """GetStatus: get_status."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Calls:
    """All calls of one server."""

    def __init__(self, operations: Operations, door: Door) -> None:
        self._operations = operations
        self._door = door
        self._under_way: set[asyncio.Task[Message]] = set()
        self._streams = 0

    def table(self) -> "grpc.GenericRpcHandler[Any, Any]":
        """What gRPC calls for each method; requests come as bytes, because a bad one is to be answered here."""
        methods = {}
        for method in SERVICE.methods:
            operation = getattr(self._operations, snake(method.name))
            request_class = GetMessageClass(method.input_type)
            if method.server_streaming:
                methods[method.name] = grpc.unary_stream_rpc_method_handler(self._stream(operation, request_class))
            else:
                methods[method.name] = grpc.unary_unary_rpc_method_handler(self._single(operation, request_class))
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)

    async def finish(self, grace_s: float) -> None:
        """Waits for what goes on, then cancels it."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=grace_s)
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _single(
        self, operation: Callable[[Any, Peer], Awaitable[Message]], request_class: type[Message]
    ) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        async def answer(raw: bytes, context: _Context) -> bytes:
            peer, request = await self._who(context), await _parsed(request_class, raw, context)
            if len(self._under_way) >= UNDER_WAY_MAX:
                await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "the agent has too much to do: ask later")
            task: asyncio.Task[Message] = asyncio.create_task(_run(operation, request, peer))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
            done, _ = await asyncio.wait({task}, timeout=OPERATION_S)  # not cancelled with this: no half-done change
            if not done:
                text = f"this has taken more than {OPERATION_S:.0f} s and goes on: exeat status tells what came of it"
                await _abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, text)
            if task.cancelled():
                await _abort(context, grpc.StatusCode.UNAVAILABLE, "the agent ends")
            if error := task.exception():
                await _fail(context, error)
            return task.result().SerializeToString()

        return answer

    def _stream(
        self, operation: Callable[[Any, Peer], Any], request_class: type[Message]
    ) -> Callable[[bytes, _Context], AsyncIterator[bytes]]:
        async def answer(raw: bytes, context: _Context) -> AsyncIterator[bytes]:
            peer, request = await self._who(context), await _parsed(request_class, raw, context)
            if self._streams >= STREAMS_MAX:
                text = f"{STREAMS_MAX} streams are open already: end one of them"
                await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            self._streams += 1
            failure: Exception | None = None
            try:
                async with aclosing(operation(request, peer)) as responses:
                    async for response in responses:
                        yield response.SerializeToString()
            except Exception as error:  # noqa: BLE001  # told and logged below, outside of the generator's clean-up
                failure = error
            finally:
                self._streams -= 1
            if failure:
                await _fail(context, failure)

        return answer

    async def _who(self, context: _Context) -> Peer:
        peer = self._door.peer_behind(context.peer())
        if peer is None:
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, "ask at the agent's own socket")
            raise AssertionError
        return peer


async def _run(operation: Callable[[Any, Peer], Awaitable[Message]], request: Message, peer: Peer) -> Message:
    return await operation(request, peer)


async def _parsed(request_class: type[Message], raw: bytes, context: _Context) -> Message:
    try:
        return request_class.FromString(raw)
    except DecodeError:
        await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"this is no {request_class.DESCRIPTOR.name}")
        raise


async def _fail(context: _Context, error: BaseException) -> None:
    if isinstance(error, Refused):
        await _abort(context, grpc.StatusCode[error.word.value], str(error))
    if isinstance(error, ExeatError):
        await _abort(context, grpc.StatusCode.INTERNAL, str(error))
    _log.error("a request to the agent failed", exc_info=error)
    await _abort(context, grpc.StatusCode.INTERNAL, _BUG)


async def _abort(context: _Context, code: grpc.StatusCode, sentence: str) -> None:
    await context.abort(code, short(sentence))


def short(sentence: str) -> str:
    """As much of it as every client takes, whole lines where there are several."""
    sentence = sentence.encode(errors="backslashreplace").decode()
    if len(quote(sentence)) <= _DETAILS_MAX:
        return sentence
    lines, room, kept = sentence.split("\n"), _DETAILS_MAX, 0
    while (room := room - len(quote(lines[kept] + "\n"))) >= 0:
        kept += 1
    if kept:
        return "\n".join([*lines[:kept], f"... and {len(lines) - kept} lines more"])
    first = lines[0][:_DETAILS_MAX]
    while len(quote(first)) > _DETAILS_MAX:
        first = first[: len(first) * 3 // 4]
    return f"{first} ..."
