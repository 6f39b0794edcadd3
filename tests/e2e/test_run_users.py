"""As whom `exeat run` runs its command, and `exeat doctor` and `exeat detach` beside it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bed import Finished, run_in
from e2e.guard import remove_cgroup
from e2e.launch_fixture import is_running, until
from e2e.run_exeat import EXEAT, START_S, Stage, open_stage, verdicts
from exeat.cli import doctor
from exeat.cli.main import main
from exeat.kernel.doctor import Finding
from exeat.kernel.filesystems import mount_point

NOBODY = 65534


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One stage for the whole file."""
    with open_stage() as it:
        yield it


@pytest.mark.parametrize(
    ("options", "env", "uid", "gid"),
    [
        (("--user", "nobody"), {}, NOBODY, NOBODY),
        ((), {"SUDO_UID": "12345", "SUDO_GID": "54321", "SUDO_USER": "ghost"}, 12345, 54321),
        (("--user", "nobody"), {"SUDO_UID": "12345", "SUDO_GID": "54321"}, NOBODY, NOBODY),
    ],
)
def test_the_command_runs_as_who_is_meant_and_its_verdicts_say_so(
    options: tuple[str, ...], env: dict[str, str], uid: int, gid: int, stage: Stage
) -> None:
    """--user before sudo's word; and the same uid stands in the verdict. Of root: test_run_report.py."""
    path = stage.directory / f"verdicts-{uid}-{len(env)}-{len(options)}"
    script = f"id -u; id -g; curl -s --cacert {stage.ca_file} https://v4.shop.test/ https://v4.evil.test/"
    ran = stage.run("sh", "-c", script, options=(*options, "--verdicts", str(path)), env=env)
    assert ran.stdout.split("\n", 2) == [str(uid), str(gid), "I am v4.shop.test\n"]
    assert [(line["verdict"], line["process"]["uid"]) for line in verdicts(path)] == [
        ("FORWARDED", uid),
        ("DROPPED", uid),
    ]


def test_a_caller_who_is_not_root_is_told_to_use_sudo(stage: Stage) -> None:
    """125, and a command to type."""
    line = [*EXEAT, "run", "--policy", str(stage.policy), "--", "true"]
    ran = run_in(stage.bed, line, user="nobody")
    assert ran.returncode == 125
    assert "sudo exeat run" in ran.stderr


def test_doctor_finds_nothing_missing_here(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON for machines; for people a table of the same, whose every line is ok (as a program: test_guest_upgrade.py).

    Each examination compiles everything, so the table is made of what the one has found.
    """
    machine = run_in(stage.bed, [*EXEAT, "doctor", "-o", "json"], timeout=START_S)
    assert machine.returncode == 0, machine.stdout + machine.stderr
    findings = json.loads(machine.stdout)
    monkeypatch.setattr(doctor, "examine", lambda: [Finding(**finding) for finding in findings])
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(findings) == len(table) > 5
    for finding, line in zip(findings, table, strict=True):
        assert finding.keys() == {"feature", "is_there", "detail", "cost"}
        assert finding["is_there"] is True
        assert line.startswith(f"ok       {finding['feature']}")


class Island:
    """A machine in the machine, where detach may remove all: own cgroup tree, BPF file system and /run/exeat."""

    SETTLE = """
    umount -l "$1" && mount -t cgroup2 cgroup2 "$1" && mount -t bpf bpf "$2" &&
    mkdir -p /run/exeat && mount -t tmpfs tmpfs /run/exeat &&
    echo settled && exec sleep 600
    """

    def __init__(self, stage: Stage, cgroup: Path) -> None:
        self._stage = stage
        self.cgroup = cgroup
        root, pins = mount_point("cgroup2"), mount_point("bpf") or Path("/sys/fs/bpf")
        words = ["unshare", "--mount", "--cgroup", "sh", "-c", self.SETTLE, "sh", str(root), str(pins)]
        self.keeper = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: (cgroup / "cgroup.procs").write_text("0")
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == "settled\n"

    def line(self, *argv: str) -> list[str]:
        """The command line that runs there."""
        enter = 'echo 0 > "$0"/cgroup.procs && exec "$@"'
        there = ["nsenter", f"--target={self.keeper.pid}", "--mount", "--cgroup"]
        return ["sh", "-c", enter, str(self.cgroup), *there, *argv]

    def guardian(self) -> int:
        """The pid of the one guardian there is."""
        pids = (self.cgroup / "cgroup.procs").read_text().split()
        (found,) = [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "exeat-guardian\n"]
        return found

    def do(self, *argv: str) -> Finished:
        """Runs a command there to its end."""
        return run_in(self._stage.bed, self.line(*argv), timeout=START_S)

    def traces(self) -> list[str]:
        """What of exeat is there."""
        script = "find /sys/fs/bpf -name exeat; find /run/exeat -type f; find /sys/fs/cgroup -name 'exeat*'"
        return self.do("sh", "-c", script).stdout.split()


@contextmanager
def island(stage: Stage) -> Iterator[Island]:
    """An island, and its end."""
    root = mount_point("cgroup2")
    assert root
    cgroup = root / f"island-{os.getpid()}"
    cgroup.mkdir()
    try:
        it = Island(stage, cgroup)
        yield it
        it.keeper.kill()
        it.keeper.wait()
    finally:
        remove_cgroup(cgroup)


def test_detach_refuses_while_a_command_runs_and_force_ends_it(stage: Stage) -> None:
    """Nothing is ever let go; with --force nothing is left, and its supervisor says how it ended."""
    with island(stage) as place:
        mark = stage.directory / "runs"
        words = [*EXEAT, "run", "--policy", str(stage.policy), "--", "sh", "-c", f"echo $$ > {mark}; sleep 600"]
        with subprocess.Popen(place.line(*words), stderr=subprocess.PIPE, text=True) as supervisor:
            until(lambda: mark.exists() and mark.read_text(), "the command", START_S)
            assert len(place.traces()) >= 3

            refused = place.do(*EXEAT, "detach")
            assert refused.returncode == 125
            assert "still runs; end it first, or use --force" in refused.stderr
            assert supervisor.poll() is None
            assert len(place.traces()) >= 3

            forced = place.do(*EXEAT, "detach", "--force")
            assert forced.returncode == 0, forced.stderr
            assert forced.stdout.startswith("ended run-")
            stderr = supervisor.communicate(timeout=START_S)[1]
            assert supervisor.returncode == 128 + 9
            assert "Traceback" not in stderr
            assert not is_running(supervisor.pid)
        time.sleep(0.1)
        assert place.traces() == []


def test_detach_removes_what_a_crash_left(stage: Stage) -> None:
    """Supervisor and guardian killed at once: what they pinned stays, until somebody detaches."""
    with island(stage) as place:
        mark = stage.directory / "crashed"
        words = [*EXEAT, "run", "--policy", str(stage.policy), "--", "sh", "-c", f"echo $$ > {mark}; sleep 600"]
        with subprocess.Popen(place.line(*words)) as supervisor:
            until(lambda: mark.exists() and mark.read_text(), "the command", START_S)
            os.kill(place.guardian(), signal.SIGKILL)
            supervisor.kill()
        assert place.traces() != []
        assert place.do(*EXEAT, "detach").returncode == 0
        assert place.traces() == []


def test_detach_where_nothing_is_says_nothing(stage: Stage) -> None:
    """And succeeds."""
    with island(stage) as place:
        done = place.do(*EXEAT, "detach")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
