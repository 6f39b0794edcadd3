"""A socket that answers as Docker does, or as it should not: a path's answer, whole, and how long it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"


def answer(told: Any, status: str = "200 OK") -> bytes:
    """As Docker sends it: in chunks."""
    body = json.dumps(told).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (body[:10], body[10:]) if one)
    return f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"


@dataclass
class FakeDocker:
    """What it was asked, in order."""

    socket: Path
    asked: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def fake_docker(socket: Path, answers: Mapping[str, bytes], delay_s: float = 0.0) -> AsyncIterator[FakeDocker]:
    """Other paths are not found."""
    fake = FakeDocker(socket)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        fake.asked.append(path)
        await asyncio.sleep(delay_s)
        with contextlib.suppress(ConnectionError):  # who has read enough goes
            writer.write(answers.get(path, NOT_FOUND))
            await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(converse, str(socket)):
        yield fake
