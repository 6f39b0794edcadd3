"""Ways round the gate of a whole `exeat run`: addresses that no gate told, another run's gate, deputies; its accounts.

Each run tries many things at once, because programs are compiled for each; what became of them is told as JSON.
"""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bed import Bed, Dns, Finished, Host, Tcp, Tls, missing_capability, run_in, start_in
from e2e.launch_fixture import until
from e2e.run_exeat import EXEAT, PYTHON, START_S, denials, pins_of, summary, verdicts

NOBODY = "192.0.2.53"
HOSTS = """\
127.0.0.1 localhost
{evil} pinned.evil.test
{shop} pinned.shop.test
"""

PROGRAM = """
import ctypes, errno, json, os, random, socket, struct, subprocess, sys, threading

def got(do):
    try:
        return do()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)

def query(name, kind=1):
    wire = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    return os.urandom(2) + struct.pack("!5H", 0x0100, 1, 0, 0, 0) + wire + struct.pack("!xHH", kind, 1)

def ask(name, server="192.0.2.53", port=53, tcp=False):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.connect((server, port))
        message = query(name)
        sock.sendall(struct.pack("!H", len(message)) + message if tcp else message)
        answer = sock.recv(4096)[2 if tcp else 0:]
        return answer[3] & 15, struct.unpack("!H", answer[6:8])[0]

def dial(address, port=7):
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.connect((address, port))
        sock.sendall(b"hello")
        return sock.recv(99).decode()

def by_name(name):
    return dial(socket.getaddrinfo(name, 7, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
"""


@dataclass(frozen=True)
class Place:
    """The bed's hosts, and files that every user may read."""

    bed: Bed
    shop: Host
    evil: Host
    resolver: Host
    chosen: Host
    directory: Path

    def reset(self) -> None:
        """Counts from nothing."""
        for host in (self.shop, self.evil, self.resolver, self.chosen):
            host.reset()

    def line(self, argv: Sequence[str]) -> list[str]:
        """A command in a mount namespace of its own, with the stage's /etc/hosts and resolv.conf."""
        script = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
        clean = [f"-u{name}" for name in os.environ if name.startswith("SUDO_")]
        return ["unshare", "--mount", "sh", "-c", script, str(self.directory), "env", *clean, *argv]

    def exeat(self, *argv: str, options: Sequence[str] = ()) -> list[str]:
        """The command line of a run that may reach shop.test over TLS, and *.shop.test on port 7."""
        allow = ("--allow=shop.test", "--allow=*.shop.test:7/tcp", f"--dns-upstream={self.resolver.address4}")
        return self.line([*EXEAT, "run", *allow, *options, "--", *argv])

    def run(self, *argv: str, options: Sequence[str] = ()) -> Finished:
        """That run to its end."""
        return run_in(self.bed, self.exeat(*argv, options=options), timeout=START_S)

    def program(self, body: str) -> tuple[str, ...]:
        """The command line of a program."""
        return (PYTHON, "-c", PROGRAM + body)

    def both(self, body: str, options: Sequence[str] = ()) -> tuple[Any, Any, Finished]:
        """What a program printed with nobody in its way, and under exeat; counts are those of the second."""
        free = run_in(self.bed, self.line(self.program(body)), timeout=START_S)
        self.reset()
        held = self.run(*self.program(body), options=options)
        assert free.stdout, free.stderr
        assert held.stdout, held.stderr
        return json.loads(free.stdout), json.loads(held.stdout), held


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One place for the whole file."""
    if missing := missing_capability():
        pytest.skip(missing)
    with Bed() as bed:
        shop = bed.add("shop.test", Tls(names=("shop.test",)), Tcp(7))
        evil = bed.add("evil.test", Tls(names=("shop.test", "evil.test")), Tcp(7))
        zone = {"shop.test": [shop.address4], "*.shop.test": [shop.address4], "*.evil.test": [evil.address4]}
        zone["evil.test"] = [evil.address4]
        resolver = bed.add("resolver.test", Dns(zone))
        forged = dict.fromkeys(
            ("shop.test", "www.shop.test", "evil.test", "*.evil.test", "*.shop.test"), [evil.address4]
        )
        chosen = bed.add("chosen.test", Dns(forged))
        directory = tmp_path_factory.mktemp("bypass")
        for parent in (directory, *directory.parents[:2]):
            parent.chmod(0o755)
        hosts = HOSTS.format(evil=evil.address4, shop=shop.address4)
        for name, text in (("hosts", hosts), ("resolv.conf", f"nameserver {chosen.address4}\n")):
            (directory / name).write_text(text)
        yield Place(bed, shop, evil, resolver, chosen, directory)


def test_an_address_that_the_gate_did_not_tell_is_denied(place: Place) -> None:
    """From /etc/hosts, by heart, from a server of the client's own; an allowed name's too, until that is asked for."""
    body = f"""
told = [got(lambda: by_name("pinned.evil.test")), got(lambda: by_name("pinned.shop.test"))]
told += [got(lambda: dial("{place.shop.address4}")), got(lambda: dial("{place.evil.address4}"))]
told += [ask("www.shop.test", "{place.chosen.address4}"), ask("evil.test", "{place.chosen.address4}", tcp=True)]
told += [got(lambda: by_name("www.shop.test")), got(lambda: dial("{place.evil.address4}"))]
print(json.dumps(told))
"""
    free, held, finished = place.both(body)
    shop, evil = "I am shop.test\n", "I am evil.test\n"
    answered, refused = [0, 1], [3, 0]  # rcode, records
    assert [str(one)[:15] for one in free[:4]] == [evil, shop, shop, evil]
    assert free[4:6] == [answered, answered]
    assert free[6][:15] == evil  # by the chosen server's word, www.shop.test is there
    assert held[:4] == ["EPERM"] * 4
    assert held[4:6] == [answered, refused]
    assert held[6][:15] == shop
    assert held[7] == "EPERM"
    assert place.chosen.count().is_untouched
    assert place.evil.count().is_untouched
    assert {asked.name for asked in place.resolver.questions()} == {"www.shop.test"}
    assert sum("[not_resolved" in line for line in denials(finished.stderr)) == 2  # of two addresses
    assert sum("evil.test" in line and "[name_not_allowed" in line for line in denials(finished.stderr)) == 1


def listeners(bed: Bed) -> set[int]:
    """The UDP ports on 127.0.0.1 in the client's namespace, TCP listeners too."""

    def look() -> set[int]:
        found = set()
        for table, state in (("udp", "07"), ("tcp", "0A")):
            for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                if address == "0100007F" and fields[3] == state:
                    found.add(int(port, 16))
        return found

    return bed.network.client.call(look)


def wait_for(place: Place, process: subprocess.Popen[str], mark: str) -> None:
    """Until the command of a run has made this file."""
    until((place.directory / mark).exists, f"{mark} of {process.pid}", START_S)


def test_the_gate_of_another_run_is_out_of_reach(place: Place) -> None:
    """Even under a rule that opens all of loopback: its policy allows evil.test, and ours does not."""
    before = listeners(place.bed)
    script = f"touch {place.directory}/first; exec sleep 120"
    other = start_in(
        place.bed, place.exeat("sh", "-c", script, options=("--allow=evil.test",)), stderr=subprocess.DEVNULL
    )
    try:
        wait_for(place, other, "first")
        (port,) = listeners(place.bed) - before
        body = f"""
told = [got(lambda: ask("evil.test", "127.0.0.1", {port}, tcp)) for tcp in (False, True)]
told += [ask(name, "{place.chosen.address4}") for name in ("evil.test", "shop.test")]
print(json.dumps(told))
"""
        options = [f"--allow-cidr=127.0.0.0/8:1-65535/{protocol}" for protocol in ("udp", "tcp")]
        free, held, finished = place.both(body, options)
    finally:
        other.terminate()
        other.wait(START_S)
    answered, refused = [0, 1], [3, 0]
    assert free == [answered] * 4  # who is nobody's workload may ask it
    assert held == ["EPERM", "EPERM", refused, answered]
    assert sum("[gate_not_own" in line for line in denials(finished.stderr)) == 2
    assert {asked.name for asked in place.resolver.questions()} == {"shop.test"}


@contextmanager
def nscd() -> Iterator[list[bytes]]:
    """A cache daemon at its usual place, that hears every look-up and answers none; yields what it was asked."""
    path = Path("/run/nscd/socket")
    if path.parent.exists():
        pytest.skip("this host has a cache daemon of its own (/run/nscd)")
    asked: list[bytes] = []
    path.parent.mkdir()
    path.parent.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # it was shut down
                    return
                with connection:
                    connection.settimeout(5)
                    asked.append(connection.recv(1024))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            path.unlink()
            path.parent.rmdir()


def test_a_c_library_that_would_ask_nscd_asks_the_gate(place: Place) -> None:
    """A real getent, and a daemon outside that could resolve anything for it."""
    own = f"asks-{os.getpid()}"  # other programs on this host may ask the daemon, too
    evil, shop = f"{own}.evil.test", f"{own}.shop.test"
    script = f"getent ahostsv4 {evil}; getent ahostsv4 {shop}"
    with nscd() as asked:
        free = run_in(place.bed, place.line(["sh", "-c", script]), timeout=START_S)
        assert any(evil.encode() in one for one in asked)
        assert place.evil.address4 in free.stdout
        asked.clear()
        place.reset()
        ran = place.run("sh", "-c", script)
        assert not any(own.encode() in one for one in asked)
    assert place.shop.address4 in ran.stdout
    assert place.evil.address4 not in ran.stdout
    assert [one.name for one in place.resolver.questions()] == [shop]
    assert place.chosen.count().is_untouched
    assert any(evil in line and "getent[" in line for line in denials(ran.stderr))


ASKED = {"evil.test": 700, "other.evil.test": 30, "shop.test": 400, "www.shop.test": 1}


def test_every_question_is_counted_and_repeated_ones_are_told_as_a_number(place: Place) -> None:
    """In the summary, in the verdicts file, and in the lines for people: a denied name is one line."""
    path = place.directory / "counted.json"
    body = f"""
for name, count in {ASKED}.items():
    for number in range(count):
        ask(name, tcp=number == 0)
print("done")
"""
    ran = place.run(*place.program(body), options=("--verdicts", str(path), "--fail-on-deny"))
    assert (ran.stdout, ran.returncode) == ("done\n", 3)  # nothing but questions was denied
    allowed, denied = 401, 730
    assert summary(ran.stderr).startswith(f"exeat: {allowed} allowed, {denied} denied (2 different), ")
    assert [line.split()[2] for line in denials(ran.stderr)] == ["evil.test", "other.evil.test"]
    lines = [line for line in verdicts(path) if line["hook"] == "query"]
    for name, count in ASKED.items():
        of_name = [line for line in lines if line["name"] == name]
        assert sum(line["count"] for line in of_name) == count
        assert len(of_name) < 10
        is_allowed = name.endswith("shop.test")
        expected = ("FORWARDED", "resolved") if is_allowed else ("DROPPED", "name_not_allowed")
        assert {(line["verdict"], line["reason"]) for line in of_name} == {expected}
        assert {line["destination"]["address"] for line in of_name} == {NOBODY}


def test_a_verdict_names_the_process_that_asked(place: Place) -> None:
    """Its own pid as the host sees it, not the one inside; of two that ask, each its own."""
    path = place.directory / "processes.json"
    body = """
for name in ("evil.test", "other.evil.test"):
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, f"asks-{name[:5]}".encode(), 0, 0, 0)
        ask(name, tcp=name == "evil.test")
        print(name, flush=True)
        sys.stdin.read()
        os._exit(0)
for _ in range(2):
    os.wait()
"""
    line = place.exeat(*place.program(body), options=("--verdicts", str(path)))
    pipe = subprocess.PIPE
    process = start_in(place.bed, line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    assert process.stdout
    assert {process.stdout.readline(), process.stdout.readline()} == {"evil.test\n", "other.evil.test\n"}
    seen = {}
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = comm.read_text().strip()
        except OSError:  # it has ended
            continue
        if name.startswith("asks-"):
            seen[name] = int(comm.parent.name)
    process.communicate("", timeout=START_S)
    told = {line["name"]: line["process"] for line in verdicts(path) if line["hook"] == "query"}
    assert {name: (one["comm"], one["pid"]) for name, one in told.items()} == {
        "evil.test": ("asks-evil.", seen["asks-evil."]),
        "other.evil.test": ("asks-other", seen["asks-other"]),
    }


def test_a_run_that_is_killed_leaves_no_listener_and_no_map(place: Place) -> None:
    """While its command floods the gate. The next run is as any other, and nothing was denied to it."""
    before = listeners(place.bed)
    mark = "flood"
    body = f"""
open("{place.directory}/{mark}", "w").close()
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while True:
        got(lambda: sock.sendto(query("evil.test"), ("192.0.2.53", 53)))
"""
    process = start_in(place.bed, place.exeat(*place.program(body)), stderr=subprocess.DEVNULL)
    wait_for(place, process, mark)
    supervisor = process.pid
    assert len(listeners(place.bed) - before) == 1
    assert pins_of(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    process.wait(START_S)
    until(lambda: not listeners(place.bed) - before, "no listener left")
    until(lambda: not pins_of(supervisor), f"no pin left: {pins_of(supervisor)}")
    place.reset()
    ran = place.run(*place.program("print(ask('shop.test'))"), options=("--fail-on-deny",))
    assert (ran.stdout, ran.returncode) == ("(0, 1)\n", 0)
    assert [asked.name for asked in place.resolver.questions()] == ["shop.test"]
