"""A command in a leaf of its own: how it starts, what it is told, how it ends, and that nothing stays."""

import os
import pty
import random
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from e2e.launch_fixture import (
    AGENT,
    CLEAN_ENVIRONMENT,
    PYTHON,
    exeat,
    guardian_of,
    is_running,
    leaves,
    left_behind,
    processes_with,
    run,
    run_outside,
    until,
)
from exeat.launch.cgroup import slice_directory
from exeat.launch.runs import RUNS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups and namespaces")

NOBODY = 65534


# Exit status


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_of_the_command_is_ours(status: int) -> None:
    """Whatever the command says."""
    assert run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1])
def test_a_command_killed_by_a_signal_gives_128_plus_its_number(number: signal.Signals) -> None:
    """As in a shell."""
    assert run("sh", "-c", f"ulimit -c 0; kill -{number} $$").returncode == 128 + number


def test_a_missing_command_gives_127_and_says_where_it_was_sought() -> None:
    """Both by name and by path."""
    by_name, by_path = run("no-such-command"), run("/no/such/command")
    assert (by_name.returncode, by_path.returncode) == (127, 127)
    assert "no directory in PATH has it" in by_name.stderr
    assert "there is no such file" in by_path.stderr


def test_a_file_that_is_no_program_gives_126(tmp_path: Path) -> None:
    """Not executable, a directory, and nothing the kernel knows how to execute."""
    tmp_path.chmod(0o755)
    plain, garbage = tmp_path / "plain", tmp_path / "garbage"
    plain.write_text("text")
    garbage.write_bytes(b"\x00\x01\x02")
    garbage.chmod(0o755)
    assert [run(str(path)).returncode for path in (plain, tmp_path, garbage)] == [126, 126, 126]


def test_a_script_whose_interpreter_is_missing_says_so(tmp_path: Path) -> None:
    """The kernel's "no such file" would point at the wrong file."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    ran = run(str(script))
    assert ran.returncode == 127
    assert "interpreter" in ran.stderr


def test_an_unknown_user_is_exeats_own_failure() -> None:
    """125, and nothing of the command ran."""
    ran = run("echo", "ran", before=("--user", "no-such-user"))
    assert ran.returncode == 125
    assert "no-such-user" in ran.stderr
    assert "ran" not in ran.stdout


def test_a_caller_without_root_is_told_to_use_sudo() -> None:
    """125 again."""
    ran = run("true", user=NOBODY, group=NOBODY)
    assert ran.returncode == 125
    assert "sudo" in ran.stderr


# Standard streams and descriptors


def test_pipes_on_both_sides_carry_the_bytes_and_then_end() -> None:
    """A guardian or an init that held a pipe would keep its reader waiting."""
    ran = run("sh", "-c", "tr a-z A-Z; echo err >&2", input="hello\n")
    assert (ran.stdout, ran.stderr) == ("HELLO\n", "err\n")


def test_a_command_that_closes_its_output_ends_the_readers_wait() -> None:
    """While it is still running."""
    with subprocess.Popen(exeat("sh", "-c", "exec >&-; sleep 0.5"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.poll() is None


def test_a_network_socket_as_standard_input_is_refused_and_a_pipe_is_not() -> None:
    """It was opened outside, where nothing judges it (EVASIONS D8)."""
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        refused = run("cat", stdin=client)
    assert refused.returncode == 125
    assert "standard input is a network socket" in refused.stderr
    one, other = socket.socketpair()
    with one, other:
        other.sendall(b"unix\n")
        other.close()
        assert run("cat", stdin=one).stdout == "unix\n"


def test_a_directory_as_a_standard_descriptor_is_refused() -> None:
    """openat(0, "run/docker.sock") would walk around the masks. (Python refuses one, but only as it starts.)"""
    check = "import os; os.dup2(os.open({path!r}, 0), 0); from exeat.launch.descriptors import check_standard as c; c()"
    environment = {**CLEAN_ENVIRONMENT, "PYTHONPATH": str(AGENT)}
    refused = run_outside(PYTHON, "-c", check.format(path="/tmp"), env=environment)
    assert "standard input is a directory" in refused.stderr
    assert run_outside(PYTHON, "-c", check.format(path="/etc/passwd"), env=environment).returncode == 0


def test_inherited_descriptors_are_closed() -> None:
    """Descriptor 7 is open for the same command outside."""
    look = "ls /proc/self/fd"
    outside = run_outside("sh", "-c", f"exec 7</dev/null; {look}")
    inside = run_outside("sh", "-c", f"exec 7</dev/null; {' '.join(exeat('sh', '-c'))} '{look}'", env=CLEAN_ENVIRONMENT)
    assert "7" in outside.stdout.split()
    assert set(inside.stdout.split()) == {"0", "1", "2", "3"}  # 3 is the directory that ls reads


def test_closed_standard_descriptors_are_opened_on_nothing() -> None:
    """Else the next file that somebody opens would be somebody's standard output."""
    closed = " ".join(exeat("sh", "-c", "'echo lost; readlink /proc/self/fd/0 >&2'")) + " <&- >&-"
    assert run_outside("sh", "-c", closed, env=CLEAN_ENVIRONMENT).stderr == "/dev/null\n"


# Identity


def test_the_command_runs_as_the_person_behind_sudo() -> None:
    """With that person's groups and home, not root's."""
    environment = {**CLEAN_ENVIRONMENT, "SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY), "HOME": "/root"}
    ran = run("sh", "-c", "id -u; id -g; id -G; echo $HOME $USER", env=environment)
    assert ran.stdout.split("\n")[:4] == [str(NOBODY), str(NOBODY), str(NOBODY), "/nonexistent nobody"]


def test_sudo_from_a_uid_without_a_name_works() -> None:
    """In containers, people have numbers."""
    environment = {**CLEAN_ENVIRONMENT, "SUDO_UID": "54321", "SUDO_GID": "54322"}
    assert run("sh", "-c", "id -u; id -G", env=environment).stdout.split() == ["54321", "54322"]


def test_unreadable_sudo_numbers_are_an_error_and_never_root() -> None:
    """Root by mistake would be the worst guess."""
    ran = run("id", "-u", env={**CLEAN_ENVIRONMENT, "SUDO_UID": "me"})
    assert (ran.returncode, ran.stdout) == (125, "")


def test_user_names_the_identity_and_its_supplementary_groups() -> None:
    """postgres on Debian is in ssl-cert; whatever it is in here, it is in inside."""
    name = "postgres"
    outside = run_outside("id", "-G", name).stdout.split()
    if not outside:
        pytest.skip("needs the user postgres")
    assert set(run("id", "-G", before=("--user", name)).stdout.split()) == set(outside)


def test_plain_root_keeps_its_uid() -> None:
    """And nothing else, as test_launch_confinement.py shows."""
    assert run("id", "-u").stdout == "0\n"


# Cgroup


def test_the_command_is_in_its_leaf_before_it_is_the_command() -> None:
    """And so is what it starts; the twin outside is not."""
    look = ("sh", "-c", "grep ^0:: /proc/self/cgroup")
    assert run(*look).stdout.startswith("0::/exeat.slice/run-")
    assert "exeat.slice" not in run_outside(*look).stdout


def test_the_caller_learns_the_kernels_id_of_the_leaf(tmp_path: Path) -> None:
    """on_end gets the id that the command sees as its cgroup's inode number, once, in the supervisor."""
    ended = tmp_path / "ended"
    where = f"stat -c %i {slice_directory().parent}$(grep ^0:: /proc/self/cgroup | cut -c4-)"
    ran = run("sh", "-c", where, before=("--ended", str(ended)))
    lines = ended.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(ran.stdout.strip() + " ")
    assert lines[0].endswith(" supervisor")


def test_two_runs_at_once_have_two_leaves_and_do_not_end_each_other() -> None:
    """The first one to end sweeps, and leaves the other alone."""
    with subprocess.Popen(exeat("sh", "-c", "sleep 1; cat /proc/self/cgroup"), stdout=subprocess.PIPE) as first:
        until(lambda: any(name.startswith(f"run-{first.pid}-") for name in leaves()), "the first leaf")
        others = [subprocess.Popen(exeat("cat", "/proc/self/cgroup"), stdout=subprocess.PIPE) for _ in range(4)]
        outputs = [other.communicate(timeout=30)[0] for other in others]
        outputs.append(first.communicate(timeout=30)[0])
    assert [process.returncode for process in (*others, first)] == [0] * 5
    assert len({line for output in outputs for line in output.splitlines() if line.startswith(b"0::")}) == 5


# Signals and the terminal


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH", "ALRM"])
def test_a_signal_sent_to_exeat_reaches_the_command_once(name: str) -> None:
    """And exeat itself survives it."""
    counting = (
        "import signal, time; seen = []\n"
        f"signal.signal(signal.SIG{name}, lambda *_: seen.append(1))\n"
        "print('ready', flush=True); time.sleep(0.6); time.sleep(0.3); print(len(seen))"
    )
    with subprocess.Popen(exeat(PYTHON, "-c", counting), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == "1\n"
    assert process.returncode == 0


@pytest.mark.parametrize("before", [(), ("--without-landlock",)], ids=["with-landlock", "without-landlock"])
def test_what_the_command_sends_to_its_own_group_does_not_come_back_to_it(before: tuple[str, ...]) -> None:
    """`kill 0` reaches us too, where the kernel has no Landlock scope; passing it on would be a second one."""
    code = (
        "import os, signal, time; seen = []; signal.signal(15, lambda *_: seen.append(1))\n"
        "for _ in range(5): os.kill(0, 15); time.sleep(0.1)\n"
        "print(len(seen))"
    )
    ran = run(PYTHON, "-c", code, before=before, start_new_session=True)
    assert (ran.stdout, ran.returncode) == ("5\n", 0)


class Terminal:
    """A shell with job control on a terminal of its own, typed into and read from."""

    def __init__(self) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], {**CLEAN_ENVIRONMENT, "PS1": "$ "})
        self.seen = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.fd, text.encode())

    def expect(self, text: str, within_s: float = 15) -> None:
        """Read until the text has appeared since the last expect()."""
        deadline = time.monotonic() + within_s
        while text not in self.seen:
            assert select.select([self.fd], [], [], deadline - time.monotonic())[0], f"{text!r} not in {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.split(text, 1)[1]

    def close(self) -> None:
        """Hang up."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal():  # type: ignore[no-untyped-def]
    """A terminal with a shell."""
    opened = Terminal()
    yield opened
    opened.close()


def test_ctrl_c_reaches_the_command_once_and_its_status_comes_back(terminal: Terminal, tmp_path: Path) -> None:
    """The terminal signals the whole group; exeat must not pass its own copy on."""
    script = tmp_path / "count.py"
    script.write_text(
        "import signal, sys, time; seen = []\n"
        "signal.signal(2, lambda *_: seen.append(1)); print('rea' + 'dy', flush=True)\n"
        "time.sleep(1); time.sleep(0.5); print('seen', len(seen)); sys.exit(7)\n"
    )
    terminal.type(" ".join(exeat(PYTHON, str(script))) + "; echo status=$?\n")
    terminal.expect("ready\r\n")
    terminal.type("\x03")
    terminal.expect("seen 1\r\n")
    terminal.expect("status=7\r\n")


def test_ctrl_c_ends_an_ordinary_command_with_130(terminal: Terminal) -> None:
    """As it would without exeat."""
    terminal.type(" ".join(exeat("sh", "-c", "'echo rea\"\"dy; exec sleep 60'")) + "; echo status=$?\n")
    terminal.expect("ready\r\n")
    terminal.type("\x03")
    terminal.expect("status=130\r\n")


def test_ctrl_z_stops_the_job_and_fg_continues_it(terminal: Terminal, tmp_path: Path) -> None:
    """The shell sees exeat stopped because the command is. (No sh here: dash in the middle of vfork() never stops.)"""
    script = tmp_path / "ask.py"
    script.write_text("print('rea' + 'dy', flush=True); print('got', input())")
    terminal.type(" ".join(exeat(PYTHON, str(script))) + "; echo status=$?\n")
    terminal.expect("ready\r\n")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("fg\n")
    terminal.expect("ask.py")
    terminal.type("word\n")
    terminal.expect("got word\r\n")
    terminal.type("echo status=$?\n")
    terminal.expect("status=0\r\n")


def test_a_job_in_the_background_does_not_take_the_terminal_when_it_ends(terminal: Terminal, tmp_path: Path) -> None:
    """It was in the foreground when it began; the shell must still be able to read."""
    script = tmp_path / "work.py"
    script.write_text("import time; print('rea' + 'dy', flush=True); time.sleep(1)")
    terminal.type(" ".join(exeat(PYTHON, str(script))) + "\n")
    terminal.expect("ready\r\n")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("bg; wait; echo all $((6 * 7))\n")
    terminal.expect("all 42\r\n")
    terminal.type("read x && echo got $x\n")
    time.sleep(0.3)
    terminal.type("word\n")
    terminal.expect("got word\r\n")


def test_a_shell_inside_has_job_control_and_gives_the_terminal_back(terminal: Terminal) -> None:
    """Its own group takes the terminal; the next command of the outer script must be able to read."""
    inner = " ".join(exeat("bash", "--norc", "--noprofile", "-i"))
    terminal.type(f"sh -c '{inner}; read x; echo outer $x'\n")
    terminal.type("sleep 60\n")
    time.sleep(1)
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("jobs; kill -9 %1; sleep 0.5; exit\n")
    terminal.expect("sleep 60")
    terminal.expect("exit")
    time.sleep(1)
    terminal.type("word\n")
    terminal.expect("outer word\r\n")


# The end


def test_a_daemon_that_the_command_left_is_killed_at_the_end() -> None:
    """Nothing runs under a policy that is gone. Outside, the same daemon survives its parent."""
    mark = f"61{random.randrange(10**6)}"
    daemon = f"setsid sleep {mark} >&- 2>&- <&- & echo $!"
    outside = int(run_outside("sh", "-c", daemon).stdout)
    assert processes_with(mark) == [outside]
    os.kill(outside, signal.SIGKILL)
    until(lambda: not processes_with(mark), "the outside daemon's end")
    ran = run("sh", "-c", daemon)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout != ""
    assert processes_with(mark) == []


def test_nothing_is_left_after_an_ordinary_run() -> None:
    """No leaf, record, guardian, process or mount, at the very moment exeat has ended."""
    with subprocess.Popen(exeat("sh", "-c", "sleep 0.3 & sleep 0.1")) as process:
        until(lambda: any(name.startswith(f"run-{process.pid}-") for name in leaves()), "the leaf")
        guardian = guardian_of(process.pid)
        process.wait()
    assert left_behind(process.pid, "0.3") == []
    assert not is_running(guardian)


@pytest.mark.parametrize("turn", range(20))
def test_a_supervisor_killed_at_any_moment_leaves_nothing(turn: int) -> None:
    """SIGKILL after a random time: the guardian ends the run."""
    mark = f"60.{turn}{random.randrange(10**6)}"
    with subprocess.Popen(exeat("sh", "-c", f"setsid sleep {mark} & sleep {mark}"), env=CLEAN_ENVIRONMENT) as process:
        time.sleep(random.uniform(0.03, 0.16))
        process.kill()
    until(lambda: not left_behind(process.pid, mark), f"clean: {left_behind(process.pid, mark)}", within_s=5)


@pytest.mark.parametrize("step", ["prepared", "started", "waited"])
def test_the_guardian_calls_on_end_when_the_supervisor_died(step: str, tmp_path: Path) -> None:
    """Once, with the leaf's id."""
    ended = tmp_path / "ended"
    ran = run("sleep", "0.1", before=("--ended", str(ended), "--kill-at", step))
    assert ran.returncode == -signal.SIGKILL
    until(lambda: ended.exists() and ended.read_text().endswith("guardian\n"), "the guardian's on_end")
    assert len(ended.read_text().splitlines()) == 1


def test_a_command_dies_with_its_supervisor_even_if_the_guardian_is_dead_and_the_next_run_sweeps(
    tmp_path: Path,
) -> None:
    """Its init dies with the supervisor and takes it along; the cgroup stays until somebody runs exeat again."""
    mark = f"62.{random.randrange(10**6)}"
    ended = tmp_path / "ended"
    with subprocess.Popen(exeat("sh", "-c", f"setsid sleep {mark} & sleep {mark}")) as process:
        until(lambda: len(processes_with(mark)) >= 2, "the command")
        os.kill(guardian_of(process.pid), signal.SIGKILL)
        process.kill()
    until(lambda: not processes_with(mark), "the command's death")
    assert any(name.startswith(f"run-{process.pid}-") for name in leaves())
    assert run("true", before=("--ended", str(ended))).returncode == 0
    assert left_behind(process.pid, mark) == []
    assert [line.split()[1].split("-")[1] for line in ended.read_text().splitlines()][0] == str(process.pid)
    assert len(ended.read_text().splitlines()) == 2


def test_a_killed_guardian_does_not_disturb_its_run() -> None:
    """The supervisor ends the run itself."""
    with subprocess.Popen(exeat("sh", "-c", "sleep 0.5; exit 3")) as process:
        until(lambda: any(name.startswith(f"run-{process.pid}-") for name in leaves()), "the leaf")
        os.kill(guardian_of(process.pid), signal.SIGKILL)
    assert process.returncode == 3
    assert left_behind(process.pid, "0.5") == []


def test_a_record_without_a_cgroup_and_a_cgroup_without_a_record_are_swept() -> None:
    """The two halves that a crash of the whole machine's user space could leave."""
    record, leaf = RUNS / "run-1-record", slice_directory() / "run-1-leaf"
    RUNS.mkdir(parents=True, exist_ok=True)
    record.touch()
    (leaf / "nested").mkdir(parents=True)
    assert run("true").returncode == 0
    assert not record.exists()
    assert not leaf.exists()
