"""Runs inside a machine, as a unit, with Python's own modules only: traffic until it is told to stop, then what it saw.

python3 deb_traffic.py hold|hammer TOLD.json '{"shop": ADDRESS, "evil": [ADDRESSES], "name": N, "denied": N}'
"""

import json
import os
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE_S = 20.0  # of what is allowed; an agent that starts lets questions wait
_PAUSE_S = 0.005
_over: list[int] = []


def hold(where: dict[str, Any], up: Callable[[], None]) -> dict[str, Any]:
    """One connection for all the time; every byte comes back."""
    told: dict[str, Any] = {"echoes": 0, "failures": []}
    sock = socket.create_connection((where["shop"], 7), _PATIENCE_S)
    sock.sendall(b"greet\n")
    _read_until(sock, b"greet\n")
    up()
    while not _over:
        line = b"%0200d\n" % told["echoes"]
        try:
            sock.sendall(line)
            _read_until(sock, line)
        except OSError as error:
            told["failures"].append(repr(error))
            break
        told["echoes"] += 1
        time.sleep(_PAUSE_S)
    return told


def hammer(where: dict[str, Any], up: Callable[[], None]) -> dict[str, Any]:
    """Tries what is denied and what is allowed, all the time anew; how often what became of it."""
    told: Counter[str] = Counter()
    up()
    while not _over:
        for address in where["evil"]:
            told[f"denied tcp {_outcome(_connect, address)}"] += 1
            told[f"denied udp {_outcome(_send, address)}"] += 1
        told[f"denied name {_outcome(_fetch, where['shop'], where['denied'])}"] += 1
        told[f"denied question {_outcome(_resolve, where['denied'])}"] += 1
        told[f"allowed tcp {_outcome(_connect, where['shop'])}"] += 1
        told[f"allowed name {_outcome(_fetch, where['name'], where['name'])}"] += 1
        time.sleep(_PAUSE_S)
    return dict(told)


def _outcome(way: Callable[..., str], *words: str) -> str:
    try:
        return way(*words)
    except OSError as error:
        return type(error).__name__


def _connect(address: str) -> str:
    with socket.create_connection((address, 7), _PATIENCE_S) as sock:
        sock.sendall(b"out")
    return "sent"


def _send(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"out", (address, 5000))
    return "sent"


def _resolve(name: str) -> str:
    socket.getaddrinfo(name, 443)
    return "resolved"


def _fetch(host: str, name: str) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, 443), _PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname=name) as secure,
    ):
        secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        _read_until(secure, f"I am {name}\n".encode())
    return "answered"


def _read_until(sock: socket.socket, end: bytes) -> None:
    said = b""
    while not said.endswith(end):
        part = sock.recv(4096)
        if not part:
            raise ConnectionResetError(f"the server has closed after {said!r}")
        said += part


def main() -> None:
    """Until SIGTERM."""
    what, told, where = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda number, frame: _over.append(number))
    seen = {"hold": hold, "hammer": hammer}[what](json.loads(where), Path(f"{told}.up").touch)
    Path(f"{told}.new").write_text(json.dumps(seen))
    os.rename(f"{told}.new", told)


if __name__ == "__main__":
    main()
