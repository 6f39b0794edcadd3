"""Throws bytes at the agent's socket until the time is up: python tests/fuzz/fuzz_api.py [seconds] [seed]

Garbage, mutated HTTP/2 and random requests for each method. Afterwards, and in between, the agent must answer an honest
asker within a second, in bounded memory. Prints the seed, the rate and how the requests ended; exits 1 on a failure.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc  # noqa: E402
import psutil  # noqa: E402

from exeat.control.calls import SERVICE  # noqa: E402
from exeat.control.client import connect  # noqa: E402
from exeat.control.stranger import has_greeted, turn_away  # noqa: E402
from exeat.errors import StatusWord  # noqa: E402
from exeat.v1 import agent_pb2 as pb  # noqa: E402
from unit.fake_agent import fake_agent  # noqa: E402

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GROWTH_MAX = 64 << 20
ALLOWED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
}
METHODS = tuple(SERVICE.methods)


def frames(dice: random.Random) -> bytes:
    """HTTP/2 frames, some of them possible."""
    said = PREFACE if dice.random() < 0.9 else dice.randbytes(24)
    for _ in range(dice.randrange(12)):
        payload = dice.randbytes(dice.choice((0, 4, 6, 8, 30, 300)))
        length = len(payload) if dice.random() < 0.9 else dice.randrange(1 << 24)
        kind, flags, stream = dice.randrange(12), dice.choice((0, 1, 4, 5, 255)), dice.choice((0, 1, 3, 1 << 31))
        said += struct.pack("!BHBBI", length >> 16, length & 0xFFFF, kind, flags, stream) + payload
    return said


def at_the_socket(path: Path, dice: random.Random) -> str:
    """One connection; how it ended."""
    said = frames(dice) if dice.random() < 0.8 else dice.randbytes(dice.randrange(2000))
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(0.05)
        one.connect(str(path))
        try:
            one.sendall(said)
            while one.recv(65_536):
                pass
        except TimeoutError:
            return "socket: waits for more"
        except ConnectionError:
            return "socket: reset"
    return "socket: closed"


def request(dice: random.Random) -> bytes:
    """Bytes that may be a protobuf message."""
    if dice.random() < 0.3:
        return dice.randbytes(dice.randrange(200))
    raw = b""
    for _ in range(dice.randrange(8)):
        field, value = dice.randrange(1, 12), dice.randbytes(dice.choice((0, 1, 3, 20)))
        wire = dice.choice((0, 2, 2, 2))
        raw += bytes([field << 3 | wire]) + (bytes([dice.randrange(128)]) if wire == 0 else bytes([len(value)]) + value)
    return raw


def at_a_method(channel: grpc.Channel, dice: random.Random) -> str:
    """One call; its status."""
    method = dice.choice(METHODS)
    name = f"/{SERVICE.full_name}/{method.name}"
    try:
        if method.server_streaming:
            for _ in zip(channel.unary_stream(name)(request(dice), timeout=0.1), range(3), strict=False):
                pass
        else:
            channel.unary_unary(name)(request(dice), timeout=5)
    except grpc.RpcError as error:
        return f"{method.name} {error.code().name}"
    return f"{method.name} OK"


async def stranger(dice: random.Random) -> str:
    """What the door itself reads of somebody who may not ask."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    ours.sendall(frames(dice))
    ours.shutdown(socket.SHUT_WR)
    if await has_greeted(reader):
        await turn_away(reader, writer, StatusWord.PERMISSION, "no")
    writer.transport.abort()
    ours.close()
    return "stranger: turned away"


def main(seconds: float, seed: int) -> int:
    """Fuzz for so long; the exit status."""
    print(f"seed {seed}, {seconds:g} s", flush=True)
    logging.disable(
        logging.CRITICAL
    )  # a made-up request may well find a bug of the fake agent: it is logged and answered
    dice, seen, failures = random.Random(seed), Counter[str](), list[str]()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "agent.sock"
        with fake_agent(path) as running, grpc.insecure_channel(f"unix:{path}") as channel:
            at_first, began = 0, time.monotonic()
            while time.monotonic() - began < seconds and not failures:
                for _ in range(100):
                    seen[at_the_socket(path, dice) if dice.random() < 0.3 else at_a_method(channel, dice)] += 1
                    seen[asyncio.run(stranger(dice))] += 1
                running.agent.workloads = dict(list(running.agent.workloads.items())[:10])
                failures += _honest(path)
                at_first = at_first or psutil.Process().memory_info().rss
            grown = psutil.Process().memory_info().rss - at_first
    if grown > GROWTH_MAX:
        failures.append(f"memory grew by {grown >> 20} MiB")
    failures += [f"answered with {end}" for end in seen if ":" not in end and end.split()[1] not in ALLOWED]
    print(f"{seen.total()} attempts, {seen.total() / seconds:.0f}/s, memory grew by {grown >> 10} KiB")
    print(*(f"{count:9} {ending}" for ending, count in seen.most_common()), sep="\n")
    print(*failures, sep="\n")
    return 1 if failures else 0


def _honest(path: Path) -> list[str]:
    began = time.monotonic()
    with connect(path) as agent:
        agent.get_status()
        agent.list_workloads(pb.ListWorkloadsRequest())
    took = time.monotonic() - began
    return [f"an honest asker waited for {took:.1f} s"] if took > 1 else []


if __name__ == "__main__":
    given = sys.argv[1:]
    raise SystemExit(main(float(given[0]) if given else 60, int(given[1]) if given[1:] else secrets.randbelow(1 << 40)))
