"""Traffic of workloads, each program a process of its own that tells in the end what became of it, as JSON.

python -m e2e.agent_traffic hold '{"address": ..., "name": ..., "resolver": ...}'   until standard input ends
python -m e2e.agent_traffic hammer '{...}'

A letter on standard input changes the pace: w, walk; r, run again.
"""

import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bed import Bed, Host, start_in
from e2e.gatekeeper import SOMEBODY, fetch, look_up

_PAUSES_S = {b"r": 0.003, b"w": 0.1}
_HANG_S = 10.0  # an echo that takes longer never comes
_BRIEF_S = 0.5


@dataclass
class Held:
    """What a holder tells."""

    plain: int = 0  # echoes
    tls: int = 0
    worst_ms: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass
class Traffic:
    """One such program while it runs."""

    process: "subprocess.Popen[str]"
    bed: Bed

    def wait_until_up(self) -> None:
        """Returns when it has begun."""
        assert self.process.stdout
        assert self.process.stdout.readline() == "up\n"

    @contextmanager
    def at_a_walk(self) -> Iterator[None]:
        """While nothing happens but that a compiler works, which needs the cores, too."""
        self._say("w")
        try:
            yield
        finally:
            self._say("r")

    def _say(self, letter: str) -> None:
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it has ended, and finish() tells of what
            self.process.stdin.write(letter)
            self.process.stdin.flush()

    def finish(self) -> Any:
        """Ends it; what it tells."""
        out, _ = self.process.communicate("", timeout=60)
        self.bed.disown(self.process)
        return json.loads(out.splitlines()[-1])


def everywhere(shop: Host, evil: Host, cafe: Host | None = None, **more: object) -> dict[str, object]:
    """Where traffic goes: `evil` is always denied, `cafe` at times."""
    return {
        "evil4": evil.address4,
        "evil6": evil.address6,
        "shop": shop.address4,
        "cafe": (cafe or evil).address4,
        "address": shop.address4,
        **more,
    }


def all_was_allowed(told: dict[str, int]) -> bool:
    """Whether every new connection of a hammer's to where it may go was made."""
    tried = {word: count for word, count in told.items() if word.startswith("allowed")}
    return tried.keys() <= {"allowed sent", "allowed-name I am a.shop.test"}  # a brief visitor may have come to none


def start_traffic(bed: Bed, cgroup: Path, what: str, where: dict[str, object]) -> Traffic:
    """Starts one inside a workload."""
    line = [sys.executable, "-m", "e2e.agent_traffic", what, json.dumps(where)]
    tests = str(Path(__file__).parents[1])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return Traffic(start_in(bed, line, cgroup=cgroup, env={"PYTHONPATH": tests}, **pipes), bed)


class _Pace:
    """Of a program: how long it rests between two rounds."""

    def __init__(self) -> None:
        self._pause_s = _PAUSES_S[b"r"]

    def is_over(self) -> bool:
        """Rests; whether standard input has ended."""
        if not select.select([sys.stdin], [], [], self._pause_s)[0]:
            return False
        letter = os.read(sys.stdin.fileno(), 1)
        self._pause_s = _PAUSES_S.get(letter, 0)
        return not letter


def hold(where: dict[str, Any]) -> dict[str, Any]:
    """Keeps connections for as long as it lives, and sees that every byte comes back."""
    told = Held()
    plain = socket.create_connection((where["address"], 7), _HANG_S)
    secure = None
    if name := where.get("name"):
        address = look_up(name)[0]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        secure = context.wrap_socket(socket.create_connection((address, 443), _HANG_S), server_hostname=name)
    plain.sendall(b"greet\n")
    _read_until(plain, b"greet\n")
    print("up", flush=True)
    pace = _Pace()
    while not pace.is_over():
        began = time.monotonic()
        try:
            line = b"%0200d\n" % told.plain  # a smaller packet of a socket that nobody judges leaves no stamp on it
            plain.sendall(line)
            _read_until(plain, line)
            told.plain += 1
            if secure:
                secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                _read_until(secure, f"I am {name}\n".encode())
                told.tls += 1
        except OSError as error:
            told.failures.append(f"after {told.plain} and {told.tls} echoes: {error!r}")
            break
        told.worst_ms = max(told.worst_ms, (time.monotonic() - began) * 1000)
    return asdict(told)


def _read_until(sock: socket.socket, end: bytes) -> None:
    said = b""
    while not said.endswith(end):
        part = sock.recv(4096)
        if not part:
            raise ConnectionResetError(f"the server has closed after {said!r}")
        said += part


def hammer(where: dict[str, Any]) -> dict[str, Any]:
    """Tries everything that is denied, what is open at times, and what always is; counts what became of it."""
    told: Counter[str] = Counter()
    ways = _ways(where)
    print("up", flush=True)
    pace = _Pace()
    while not pace.is_over():
        for name, way in ways.items():
            told[f"{name} {_outcome(way)}"] += 1
    return dict(told)


def _ways(where: dict[str, Any]) -> dict[str, Callable[[], str]]:
    evil4, evil6, shop, cafe = where["evil4"], where["evil6"], where["shop"], where["cafe"]
    return {
        "connect": lambda: _connect(evil4, 7),
        "connect6": lambda: _connect(evil6, 7),
        "sendto": lambda: _sendto(evil4, 5000),
        "sendto6": lambda: _sendto(evil6, 5000),
        "wrong-name": lambda: fetch(shop, "a.evil.test"),
        "own-address": lambda: fetch(evil4, "a.shop.test"),
        "ask": lambda: _ask("a.evil.test"),
        "cafe": lambda: _connect(cafe, 7),
        "allowed": lambda: _connect(shop, 7),
        "allowed-name": lambda: fetch(shop, "a.shop.test"),
    }


def _outcome(way: Callable[[], str]) -> str:
    try:
        return way()
    except OSError as error:
        return type(error).__name__


def _connect(address: str, port: int) -> str:
    with socket.create_connection((address, port), _BRIEF_S) as sock:
        sock.sendall(b"out")
        return "sent"


def _sendto(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"out", (address, port))
        return "sent"


def _ask(name: str) -> str:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_BRIEF_S)
        sock.connect((SOMEBODY, 53))
        sock.send(question)
        answer = sock.recv(4096)
    return "answered" if int.from_bytes(answer[6:8], "big") else "refused"


if __name__ == "__main__":
    print(json.dumps({"hold": hold, "hammer": hammer}[sys.argv[1]](json.loads(sys.argv[2]))))
