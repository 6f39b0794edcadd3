"""The attacker is the command of an `exeat run`: without privileges, but with all of Python."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, run_in, start_in
from e2e.gatekeeper import fresh_resolver

PYTHON = "/usr/bin/python3"
EXEAT = (sys.executable, "-m", "exeat.cli.main")
AGENT_KIB = 60 * 1024  # the bar of DESIGN section 7

ATTACK = r"""
import errno, json, os, socket, struct, time, ctypes
NOBODY, KINDS = ("192.0.2.53", 53), {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}

def got(do):
    try:
        return do()
    except TimeoutError:
        return "TIMEOUT"
    except OSError as error:
        return errno.errorcode[error.errno]

def question(name, ident=7, kind=1):
    wire = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    return struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + wire + struct.pack(">2H", kind, 1)

def code(answer):
    return answer[3] & 15 if isinstance(answer, bytes) and len(answer) > 3 else answer

def ask(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect(NOBODY)
        for _ in range(5):  # like every resolver library: what does not fit into the gate's queue is asked again
            sock.send(question(name))
            answer = got(lambda: sock.recv(4096))
            if answer != "TIMEOUT":
                return code(answer)

def stream():
    return socket.create_connection(NOBODY, 10)

said = {}
# Where the gate listens stands in /proc, though getpeername() does not say it.
with stream() as sock:
    mine = sock.getsockname()[1]
    lines = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
    port = next(int(line[2].rpartition(":")[2], 16) for line in lines if int(line[1].rpartition(":")[2], 16) == mine)
    said["peer"] = sock.getpeername()
said["was_found"] = port not in (0, 53)

def bind(kind, address, options, device=False, at=port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, KINDS[kind]) as sock:
        for option in options:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
        sock.bind((address, at))
        if kind == "tcp":
            sock.listen()
        return "BOUND"

REUSES = [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)]
ways = [(kind, address, reuse, device) for kind in KINDS for address in ("127.0.0.1", "0.0.0.0", "::1", "::",
        "::ffff:127.0.0.1") for reuse in REUSES for device in (False, True)]
said["binds"] = sorted({got(lambda: bind(*way)) for way in ways})
said["twins"] = sorted({got(lambda: bind(*way, at=0)) for way in ways})

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    said["priority"] = got(lambda: sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 0x65786561))
    said["directly"] = got(lambda: sock.sendto(question("shop.test"), ("127.0.0.1", port)))
    said["beside"] = got(lambda: sock.sendto(question("shop.test"), ("127.0.0.2", port)))
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
    said["directly_tcp"] = got(lambda: sock.connect(("127.0.0.1", port)))

# Nonsense in every size.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(NOBODY)
    for size in (0, 1, 11, 12, 4095, 4096, 4097, 65000):
        got(lambda: sock.send(b"\xff" * size))
        got(lambda: sock.send(bytes(size)))
streams = (b"", b"\0", b"\0\0", b"\0\1x", b"\xff\xff" + b"x" * 100, b"\xff\xff" + bytes(65535), b"\0\x0c" + bytes(12))
for data in streams:
    with stream() as sock:
        got(lambda: sock.sendall(data))
        got(lambda: sock.shutdown(socket.SHUT_WR))
for data in (b"", b"\0", question("shop.test")):
    with stream() as sock:
        got(lambda: sock.sendall(data))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
said["after_nonsense"] = ask("shop.test")

# More connections than there are places, each with half a message.
crowd = [stream() for _ in range(120)]
for sock in crowd:
    got(lambda: sock.send(b"\0"))
said["in_a_crowd"] = ask("shop.test")
for sock in crowd:
    sock.close()

# A flood whose answers nobody reads, of one name and of many.
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(NOBODY)
    for number in range(20000):
        got(lambda: sock.send(question("evil.test")))
    for number in range(5000):
        got(lambda: sock.send(question(f"n{number}.evil.test")))
said["after_floods"] = ask("shop.test")
said["denied"] = ask("evil.test")

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    ctypes.CDLL(None).prctl(15, b"\x1b[2K\rexeat:", 0, 0, 0)
    sock.connect(NOBODY)
    sock.send(question("renamed.test"))
    sock.settimeout(10)
    said["renamed"] = code(got(lambda: sock.recv(4096)))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def attacked(bed: Bed) -> tuple[dict[str, Any], str, int, list[str]]:
    """What the attacker saw, what exeat said, its status, and what left for the resolver."""
    resolver = fresh_resolver(bed, {"shop.test": ["203.0.113.77"], "*.evil.test": ["203.0.113.78"]})
    options = ["--allow", "shop.test", "--dns-upstream", resolver.address4]
    done = run_in(bed, [*EXEAT, "run", *options, "--", PYTHON, "-c", ATTACK], timeout=60)
    assert done.stdout.startswith("{"), done.stderr[-2000:]
    return json.loads(done.stdout), done.stderr, done.returncode, [asked.name for asked in resolver.questions()]


Attacked = tuple[dict[str, Any], str, int, list[str]]


def test_nobody_else_can_listen_at_the_gates_port(attacked: Attacked) -> None:
    """Not with any option that shares a port; with the same options other ports are free."""
    said = attacked[0]
    assert said["was_found"]
    assert said["binds"] == ["EADDRINUSE"]
    assert said["twins"] == ["BOUND"]
    assert said["priority"] == "EPERM"


def test_the_gate_is_reached_by_way_of_port_53_alone(attacked: Attacked) -> None:
    """Its own address is nobody's, and the peer's name is who was asked."""
    said = attacked[0]
    assert said["peer"] == ["192.0.2.53", 53]
    assert (said["directly"], said["directly_tcp"]) == ("EPERM", "EPERM")
    assert said["beside"] == "ECONNREFUSED"


def test_nonsense_crowds_and_floods_leave_the_gate_answering(attacked: Attacked) -> None:
    """Right and wrong names get their answers afterwards, nothing of a flood travels, exeat says its last line."""
    said, stderr, status, asked = attacked
    assert [said[when] for when in ("after_nonsense", "in_a_crowd", "after_floods")] == [0, 0, 0]
    assert (said["denied"], said["renamed"]) == (3, 3)
    assert set(asked) == {"shop.test"}
    assert status == 0, stderr[-2000:]
    assert "bytes out" in stderr.splitlines()[-1]


def test_a_program_cannot_write_to_the_terminal_through_its_name(attacked: Attacked) -> None:
    """It calls itself what erases the line."""
    assert "renamed.test" in attacked[1]
    assert "\x1b" not in attacked[1]


LONG_NAMES = r"""
import socket, struct
print("began", flush=True)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(10)
    sock.connect(("192.0.2.53", 53))
    for number in range(12000):
        labels = [b"%020d" % number + b"\xff" * 43, b"\xfe" * 63, b"\xfd" * 63, b"\xfc" * 55]
        name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        sock.send(struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1))
        answer = sock.recv(4096)
print(answer[3] & 15, flush=True)
input()
"""


def test_long_names_do_not_fill_the_memory(bed: Bed) -> None:
    """Each byte of a name may be one that takes four characters to write, and each name may be another."""
    pipe = subprocess.PIPE
    line = [*EXEAT, "run", "--allow", "shop.test", "--dns-upstream", "192.0.2.1", "--", PYTHON, "-c", LONG_NAMES]
    running = start_in(bed, line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    assert running.stdin
    assert running.stdout
    assert running.stdout.readline() == "began\n"
    before = resident_kib(running.pid)
    assert running.stdout.readline() == "3\n"
    grown = resident_kib(running.pid) - before
    running.stdin.write("\n")
    running.stdin.flush()
    assert running.wait(20) == 0
    assert before + grown < AGENT_KIB


def resident_kib(pid: int) -> int:
    """A process's memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])
