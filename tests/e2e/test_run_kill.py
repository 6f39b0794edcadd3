"""`exeat run` ended in every way: its command never got an unjudged packet out, and nothing of it is left."""

import os
import pty
import random
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from bed import start_in
from e2e.launch_fixture import left_behind, until
from e2e.run_exeat import PYTHON, START_S, Stage, open_stage, pins_of

GONE_WITHIN_S = 10  # on a busy machine; alone it takes 50 ms
ROUNDS = 8

# Says that it runs, then hammers: data together with the connect, and data after it.
HAMMER = """
import os, signal, socket, sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's exception for it is lost where a socket is being collected
mark, started, evil, far = sys.argv[1:]
open(started, "w").close()
while True:
    for address, port in ((evil, 443), (far, 7)):
        fast, slow = socket.socket(), socket.socket()
        fast.setblocking(False)
        slow.settimeout(0.2)
        for send in (
            lambda: fast.sendto(b"secret " * 40, socket.MSG_FASTOPEN, (address, port)),
            lambda: slow.connect((address, port)),
            lambda: slow.send(b"secret " * 40),
        ):
            try:
                send()
            except OSError:
                continue
"""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One stage for the whole file."""
    with open_stage() as it:
        yield it


class Hammering:
    """A run whose command sends to hosts that it may not reach, from its first moment to its last."""

    def __init__(self, stage: Stage) -> None:
        self.mark = f"mark-{random.randrange(10**9)}"
        self.started = stage.directory / self.mark
        self._stage = stage
        stage.reset()
        argv = (PYTHON, "-c", HAMMER, self.mark, str(self.started), stage.evil.address4, stage.far.address4)
        self.process = stage.start(*argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_until_it_runs(self) -> None:
        """Until the command itself is at work."""
        until(self.started.exists, "the command's start", START_S)

    def left(self) -> list[str]:
        """What is still there of it: leaf, record, mounts, processes and pins."""
        return left_behind(self.process.pid, self.mark) + pins_of(self.process.pid)

    def must_have_left_nothing(self) -> None:
        """At once or soon; and the hosts have got nothing, also not from what was queued."""
        until(lambda: not self.left(), f"nothing left: {self.left()}", GONE_WITHIN_S)
        time.sleep(0.5)
        assert [host.count().bytes for host in self._stage.denied] == [0, 0]


@pytest.fixture(scope="module")
def start_up_s(stage: Stage) -> float:
    """How long exeat takes to start a command on this machine now."""
    return stage.run("true").duration


def test_without_exeat_the_hammer_reaches_both_hosts(stage: Stage) -> None:
    """The twin: the program does send what the others must hold back."""
    stage.reset()
    argv = ("timeout", "0.5", PYTHON, "-c", HAMMER, "free", str(stage.directory / "free"))
    stage.without_exeat(*argv, stage.evil.address4, stage.far.address4)
    assert [host.count().bytes > 1000 for host in stage.denied] == [True, True]


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_kill_9_at_any_moment_leaves_nothing_and_lets_nothing_out(turn: int, stage: Stage, start_up_s: float) -> None:
    """During the compiler's work, while programs are attached, while the command runs."""
    hammering = Hammering(stage)
    time.sleep((turn + random.random()) * start_up_s * 1.5 / ROUNDS)
    hammering.process.kill()
    assert hammering.process.wait() == -signal.SIGKILL
    hammering.must_have_left_nothing()


@pytest.mark.parametrize("step", ["maps", "incoming", "programs", "links"])
def test_kill_9_in_the_middle_of_pinning_leaves_nothing(step: str, stage: Stage) -> None:
    """Half of an instance is removed as a whole one is, and does not keep the next run from starting."""
    hammering = Hammering(stage)
    until(
        lambda: any(
            f"/run-{hammering.process.pid}-" in pin and has_pins(pin, step) for pin in pins_of(hammering.process.pid)
        ),
        f"the first of the {step}",
        START_S,
    )
    hammering.process.kill()
    hammering.process.wait()
    hammering.must_have_left_nothing()


def has_pins(directory: str, step: str) -> bool:
    """Whether anything is pinned there yet."""
    try:
        return bool(os.listdir(f"{directory}/{step}"))
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_exeat_ends_the_command_by_that_signal(number: signal.Signals, stage: Stage) -> None:
    """Passed on; the status is the shell's 128+N, as it would be without exeat."""
    hammering = Hammering(stage)
    hammering.wait_until_it_runs()
    hammering.process.send_signal(number)
    assert hammering.process.wait(START_S) == 128 + number
    assert hammering.left() == []
    hammering.must_have_left_nothing()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_during_the_start_up_starts_no_command(number: signal.Signals, stage: Stage) -> None:
    """Nothing is left of what was begun, and no traceback is shown."""
    stage.reset()
    process = stage.start("sleep", "77.7", stderr=subprocess.PIPE)
    until(lambda: pins_of(process.pid), "the first pin directory", START_S)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=START_S)
    assert process.returncode in (-number, 128 + number)
    assert stderr == ""
    until(lambda: not left_behind(process.pid, "77.7") + pins_of(process.pid), "nothing left", GONE_WITHIN_S)


def test_ctrl_c_in_a_terminal_ends_the_command_once(stage: Stage) -> None:
    """The key's signal goes to both of us; the command gets one, exeat stays to clean up."""
    ours, theirs = pty.openpty()
    count = "n=0; trap 'n=$((n + 1)); echo got $n' INT; echo ready; sleep 1; sleep 1; sleep 0.5; exit 5"
    line = ["setsid", "--ctty", "--wait", *stage.line("sh", "-c", count)]
    process = start_in(stage.bed, line, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""

    def hears(word: bytes) -> bool:
        nonlocal said
        if select.select([ours], [], [], 0.1)[0]:
            said += os.read(ours, 4096)
        return word in said

    until(lambda: hears(b"ready\r\n"), "the command", START_S)
    os.write(ours, b"\x03")
    until(lambda: hears(b" bytes out"), "the summary", START_S)
    assert said.count(b"got") == 1
    assert process.wait(START_S) == 5
    os.close(ours)


def test_the_next_run_starts_after_all_this(stage: Stage) -> None:
    """No half-removed rest stands in its way."""
    assert stage.run("true").returncode == 0
