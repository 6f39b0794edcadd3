"""What systemd hears and hands over, against a real datagram socket and in real processes."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.errors import ExeatError
from exeat.notify import Notifier, listen_fds, watchdog_interval_s


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    """The socket that systemd reads."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(Path(directory, "notify")))
        one.settimeout(5)
        yield one


@pytest.fixture
def notifier(systemd: socket.socket) -> Notifier:
    """What the agent uses."""
    return Notifier(systemd.getsockname())


def heard(systemd: socket.socket) -> dict[str, str]:
    """The next message."""
    return dict(line.split("=", 1) for line in systemd.recv(4096).decode().splitlines())


def test_each_state_is_told_in_systemds_words(systemd: socket.socket, notifier: Notifier) -> None:
    """sd_notify(3) has them."""
    assert notifier.ready("3 policies, 7 workloads")
    assert heard(systemd) == {"READY": "1", "STATUS": "3 policies, 7 workloads"}
    assert notifier.ready()
    assert heard(systemd) == {"READY": "1"}
    assert notifier.watchdog()
    assert heard(systemd) == {"WATCHDOG": "1"}
    assert notifier.stopping("stops")
    assert heard(systemd) == {"STOPPING": "1", "STATUS": "stops"}


def test_a_reload_carries_the_time_at_which_it_began(systemd: socket.socket, notifier: Notifier) -> None:
    """On the clock that systemd compares by, in microseconds."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notifier.reloading()
    message = heard(systemd)
    assert message.pop("RELOADING") == "1"
    assert before <= int(message.pop("MONOTONIC_USEC")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert message == {}


def test_a_status_cannot_say_something_else(systemd: socket.socket, notifier: Notifier) -> None:
    """A line break in it would begin another assignment."""
    assert notifier.status("one\nWATCHDOG=trigger\r\ntwo")
    assert heard(systemd) == {"STATUS": "one WATCHDOG=trigger two"}


def test_stored_descriptors_arrive_and_work(systemd: socket.socket, notifier: Notifier) -> None:
    """The kernel passes the sockets themselves: what is sent to them reaches whoever took them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gate, socket.socket(type=socket.SOCK_DGRAM) as client:
        gate.bind(("127.0.0.1", 0))
        assert notifier.store("gate-7", [gate.fileno()])
        data, fds, _, _ = socket.recv_fds(systemd, 4096, 8)
        assert data == b"FDSTORE=1\nFDNAME=gate-7\nFDPOLL=0"
        with socket.socket(fileno=fds[0]) as taken:
            taken.settimeout(5)
            client.sendto(b"question", gate.getsockname())
            gate.close()
            assert taken.recv(64) == b"question"
    assert notifier.forget("gate-7")
    assert heard(systemd) == {"FDSTOREREMOVE": "1", "FDNAME": "gate-7"}


def test_more_descriptors_than_a_message_holds_go_in_several(systemd: socket.socket, notifier: Notifier) -> None:
    """The kernel takes 253 at a time."""
    with open(os.devnull) as null:
        assert notifier.store("many", [null.fileno()] * 300)
    counts = []
    for _ in range(2):
        _, fds, _, _ = socket.recv_fds(systemd, 4096, 300)
        counts.append(len(fds))
        for fd in fds:
            os.close(fd)
    assert counts == [253, 47]


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a\n", "é", "x" * 256])
def test_a_name_that_systemd_would_refuse_is_refused_here(notifier: Notifier, name: str) -> None:
    """systemd drops such a descriptor with a line in its own log, which the agent never sees."""
    with pytest.raises(ValueError, match="is no name for descriptors"):
        notifier.store(name, [0])
    with pytest.raises(ValueError, match="is no name for descriptors"):
        notifier.forget(name)


def test_an_abstract_socket_is_found() -> None:
    """systemd writes it with an at sign."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        name = f"exeat-test-{os.getpid()}-{time.monotonic_ns()}"
        one.bind(f"\0{name}")
        one.settimeout(5)
        assert Notifier(f"@{name}").ready()
        assert one.recv(64) == b"READY=1"


def test_nobody_hears_and_nothing_breaks(tmp_path: Path) -> None:
    """Not under systemd, or while systemd starts itself anew; the answer says so."""
    assert not Notifier(None).ready()
    assert not Notifier(None).is_heard
    gone = Notifier(str(tmp_path / "gone"))
    assert gone.is_heard
    assert not gone.ready()
    assert not gone.store("x", [0])


def test_a_systemd_that_does_not_read_holds_nobody_up(systemd: socket.socket, notifier: Notifier) -> None:
    """Its queue is full after some messages; then it is False within a second, and no thread of the agent hangs."""
    began = time.monotonic()
    while notifier.watchdog():
        assert time.monotonic() - began < 10
    assert time.monotonic() - began < 10


def test_the_environment_is_read_once_and_cleaned() -> None:
    """A child that inherited it could speak for the agent."""
    environment = {"NOTIFY_SOCKET": "/run/systemd/notify", "HOME": "/"}
    assert Notifier.from_environment(environment).is_heard
    assert not Notifier.from_environment(environment).is_heard
    assert environment == {"HOME": "/"}


# Descriptors handed over

_TAKER = """
import fcntl, json, os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from exeat.notify import listen_fds
found = listen_fds()
cloexec = [bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC) for fds in found.values() for fd in fds]
print(json.dumps([found, cloexec, sorted(name for name in os.environ if name.startswith("LISTEN"))]))
"""


def take(fds: list[int], environment: dict[str, str], shift: int = 0) -> list[object]:
    """What a process finds that was started with descriptors from 3 on, for its own pid or another one."""

    def arrange() -> None:
        for target, fd in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in fds], 3):
            os.dup2(fd, target)

    answer = subprocess.run(
        [sys.executable, "-c", _TAKER, str(shift)],
        check=True, capture_output=True, env=environment, close_fds=False, preexec_fn=arrange,
    )  # fmt: skip
    found: list[object] = json.loads(answer.stdout)
    return found


def test_descriptors_come_by_name_and_are_not_inherited_further() -> None:
    """Two of one name stay in their order."""
    with open(os.devnull) as null:
        names = {"LISTEN_FDS": "3", "LISTEN_FDNAMES": "gate-7:api:gate-7", "LISTEN_PIDFDID": "5"}
        assert take([null.fileno()] * 3, names) == [{"gate-7": [3, 5], "api": [4]}, [True] * 3, []]
        assert take([null.fileno()] * 2, {"LISTEN_FDS": "2"}) == [{"unknown": [3, 4]}, [True] * 2, []]


def test_descriptors_for_another_process_are_left_alone() -> None:
    """As when a shell in between passed the environment on."""
    with open(os.devnull) as null:
        assert take([null.fileno()], {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "api"}, shift=1) == [{}, [], []]


@pytest.mark.parametrize(
    ("number", "names", "sentence"),
    [
        ("x", None, "LISTEN_FDS is 'x', no number"),
        ("-1", None, "LISTEN_FDS is '-1', no number"),
        ("2", "one", "LISTEN_FDNAMES has 1 names for 2 descriptors"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(number: str, names: str | None, sentence: str) -> None:
    """Guessing would take one socket for another."""
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": number}
    with pytest.raises(ExeatError, match=sentence):
        listen_fds(environment | ({"LISTEN_FDNAMES": names} if names else {}))


def test_a_descriptor_that_is_not_open_is_said() -> None:
    """The first that systemd numbers is 3; so many are never open."""
    with pytest.raises(ExeatError, match=r"LISTEN_FDS names descriptor \d+, which is not open"):
        listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1000000"})


# The watchdog


def test_the_watchdog_is_fed_twice_in_its_time() -> None:
    """As sd_watchdog_enabled(3) advises."""
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}) is None
    assert watchdog_interval_s({}) is None
    for text in ("0", "-5", "soon"):
        with pytest.raises(ExeatError, match="no span of microseconds"):
            watchdog_interval_s({"WATCHDOG_USEC": text})
