"""Twin of load.c where there is no compiler. Python's own work is in every number here, so ratios come out too good."""

import contextlib
import os
import socket
import sys
import threading
import time

PORT_CONNECT, PORT_SINK, PORT_UDP, PORT_DENIED, PORT_FIRST, PORT_TLS = 5001, 5002, 5003, 5004, 443, 8443
RECORD = b"\x17\x03\x03\x3f\xfb" + bytes(16384 - 5)
BLOCK, DATAGRAM = 4 * RECORD, bytes(64)
SECOND_FLIGHT = b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x20" + b"." * 32
opened: dict[str, socket.socket] = {}


def shake_hands(connection: socket.socket, hello: bytes) -> None:
    """The first flight of a TLS connection and the second, without the cryptography between them."""
    for flight in (hello, SECOND_FLIGHT):
        connection.sendall(flight)
        connection.recv(64)


def obey(word: str, first: int, second: int, address: str, hello: bytes) -> int:
    """One order; how many were done."""
    if word == "connect":
        for _ in range(first):
            socket.create_connection((address, PORT_CONNECT)).close()
        return first
    if word == "first":
        for _ in range(first):
            with socket.create_connection((address, PORT_FIRST)) as connection:
                shake_hands(connection, hello)
        return first
    if word in ("tls", "tcp"):
        if word not in opened:
            opened[word] = socket.create_connection((address, PORT_TLS if word == "tls" else PORT_SINK))
            if word == "tls":
                shake_hands(opened[word], hello)
        end, sent = time.monotonic() + first / 1000, 0
        while time.monotonic() < end:
            opened[word].sendall(BLOCK)
            sent += len(BLOCK)
        return sent
    if word == "take":
        if word not in opened:
            opened[word] = socket.create_connection((address, PORT_SINK))
            opened[word].sendall(b"G")
        end, taken = time.monotonic() + first / 1000, 0
        while time.monotonic() < end:
            taken += len(opened[word].recv(len(BLOCK)))
        return taken
    udp = opened.setdefault(word, socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    if word == "send":
        udp.connect((address, PORT_UDP))
        for _ in range(first):
            udp.send(DATAGRAM)
        return first
    if word == "sendto":
        for _ in range(first):
            udp.sendto(DATAGRAM, (address, PORT_UDP))
        return first
    begin, sent, total = time.monotonic(), 0, first * second // 1000
    while sent < total:
        time.sleep(max(0.0, begin + sent / first - time.monotonic()))
        try:
            udp.sendto(DATAGRAM, (address, PORT_DENIED))
        except PermissionError:
            sent += 1
    return sent


def client(address: str) -> None:
    """Obeys orders to the end of input."""
    with open(os.environ["LOAD_HELLO"], "rb") as file:
        hello = file.read()
    print(0, 0, flush=True)
    for line in sys.stdin:
        word, *numbers = line.split()
        first, second = (*map(int, numbers), 0)[:2]
        begin = time.perf_counter_ns()
        done = obey(word, first, second, address, hello)
        print(done, time.perf_counter_ns() - begin, flush=True)


def serve_one(connection: socket.socket, answers: int, *, gives: bool) -> None:
    """Reads to the end; a word to each of the first messages, or all that is taken."""
    with connection, contextlib.suppress(OSError):
        while first := connection.recv(1 << 18):
            while gives and first.startswith(b"G"):
                connection.sendall(BLOCK)
            if answers:
                answers -= 1
                connection.send(b"answer")


def serve_port(listener: socket.socket, port: int) -> None:
    """Accepts for ever."""
    while True:
        connection, _ = listener.accept()
        answers = 2 if port in (PORT_FIRST, PORT_TLS) else 0
        how = {"gives": port == PORT_SINK}
        threading.Thread(target=serve_one, args=(connection, answers), kwargs=how, daemon=True).start()


def serve(address: str) -> None:
    """Serves until the input ends."""
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    silent.bind((address, PORT_UDP))
    for port in (PORT_CONNECT, PORT_SINK, PORT_FIRST, PORT_TLS):
        listener = socket.create_server((address, port), backlog=4096)
        threading.Thread(target=serve_port, args=(listener, port), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    (serve if sys.argv[1] == "serve" else client)(sys.argv[2])
