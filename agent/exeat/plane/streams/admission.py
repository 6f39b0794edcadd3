"""Whom the plane talks to: the checks that both of an agent's streams begin with."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.v1 import plane_pb2 as pb

PROTOCOL = 1
_HELLO_S = 20.0
_NODE = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?")
_START_MAX = 100
_TIME_END_S = 9_223_372_036  # in the year 2262, where nanoseconds no longer fit into 63 bits
_NAMES_SHOWN = 5
_Request = TypeVar("_Request", pb.SyncRequest, pb.ReportRequest)


async def first_of(requests: AsyncIterator[_Request]) -> _Request:
    """What a stream begins with, which is to be a hello. Raises Refused."""
    try:
        async with asyncio.timeout(_HELLO_S):
            first = await anext(requests, None)
    except TimeoutError:
        raise Refused(StatusWord.UNAVAILABLE, f"no hello came within {_HELLO_S:.0f} s") from None
    if first is None or first.WhichOneof("said") != "hello":
        raise Refused(StatusWord.INVALID, "a stream begins with a hello")
    return first


def check_node(node: str, names: frozenset[str]) -> None:
    """A node can speak for no other. Raises Refused."""
    if not names:
        raise Refused(StatusWord.UNAUTHENTICATED, "the certificate has no name: have one made with the node's name")
    if not _NODE.fullmatch(node):
        raise Refused(StatusWord.INVALID, f"{shown(node)} is no node's name: write letters, digits, `.`, `-` and `_`")
    if node not in names:
        held = ", ".join(shown(name) for name in sorted(names)[:_NAMES_SHOWN])
        raise Refused(StatusWord.PERMISSION, f"the certificate is for {held}, and not for {node}: use the node's own")


def check_hello(hello: pb.Hello) -> None:
    """Whether the two can talk at all. Raises Refused."""
    if hello.protocol < PROTOCOL:
        sentence = f"this agent speaks protocol {hello.protocol}, and the plane {PROTOCOL}: update the agent"
        raise Refused(StatusWord.PRECONDITION, sentence)
    if not 0 < len(hello.start) <= _START_MAX:
        raise Refused(StatusWord.INVALID, f"`start` is what tells two agents apart: say 1 to {_START_MAX} characters")


def check_times(request: pb.SyncRequest) -> None:
    """A Timestamp can hold what is no time. Raises Refused."""
    for time in _times_in(request):
        if not (0 <= time.seconds < _TIME_END_S and 0 <= time.nanos < 1_000_000_000):
            sentence = f"{time.seconds} s and {time.nanos} ns is no time: count from 1970, and nanoseconds to a second"
            raise Refused(StatusWord.INVALID, sentence)


def _times_in(request: pb.SyncRequest) -> Iterator[Timestamp]:
    """Those that are not there are zero."""
    yield from (request.hello.now, request.hello.started, request.beat.now)
    for workload in (request.result.workload, *request.workloads.workloads):
        yield from (workload.since, workload.mode_until)
