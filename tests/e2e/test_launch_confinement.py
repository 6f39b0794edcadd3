"""What a command in a leaf does not get. Every denial has a twin that does the same outside, and is allowed."""

import os
import platform
import pty
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.launch_fixture import CLEAN_ENVIRONMENT, PYTHON, exeat, left_behind, run, run_outside, until
from exeat.launch import masked_sockets, syscalls
from exeat.launch.cgroup import read_mounts, slice_directory
from exeat.launch.seccomp import ARCHITECTURES, CONDITIONAL, REFUSED

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups and namespaces")

NOBODY = 65534
AS_NOBODY = ("--user", "nobody")
IDENTITIES = pytest.mark.parametrize("identity", [(), AS_NOBODY], ids=["root", "nobody"])


def outside_as(identity: tuple[str, ...]) -> dict[str, object]:
    """The twin's identity."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if identity else {}


# Privileges


@IDENTITIES
def test_no_capability_is_left_and_none_can_come_back(identity: tuple[str, ...]) -> None:
    """Root outside has them."""
    status = run("cat", "/proc/self/status", before=identity).stdout
    assert re.findall(r"Cap\w+:\t(\w+)", status) == ["0" * 16] * 5
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" not in run_outside("cat", "/proc/self/status").stdout


def test_a_setuid_program_gives_nobody_no_power(tmp_path: Path) -> None:
    """The twin becomes root."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    program = Path("/usr/local/bin/exeat-test-setuid-id")
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    try:
        assert run_outside(str(program), "-u", **outside_as(AS_NOBODY)).stdout == "0\n"
        assert run(str(program), "-u", before=AS_NOBODY).stdout == f"{NOBODY}\n"
    finally:
        program.unlink()


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        ("socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)", "PermissionError"),
        ("socket.socket(socket.AF_INET, 10)", "PermissionError"),  # SOCK_PACKET
        ("socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", "PermissionError"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)", "PermissionError"),  # netfilter
        ("libc(425, 1, ctypes.create_string_buffer(120))", "PermissionError"),  # io_uring_setup
        ("libc(250, 0, -3, 1)", "PermissionError"),  # keyctl(GET_KEYRING_ID, SESSION, create)
        ("libc(321, 0, array_map, 72)", "PermissionError"),
        ("libc(272, 0x10000000)", "PermissionError"),  # unshare(CLONE_NEWUSER)
        ("libc(56, 0x10000000 | 17, 0, 0, 0, 0)", "PermissionError"),  # clone(CLONE_NEWUSER)
        ("libc(435, ctypes.create_string_buffer(b'', 64), 64)", "OSError 38"),  # clone3
        ("libc(308, os.open('/proc/self/ns/net', 0), 0)", "PermissionError"),  # setns
        ("libc(165, b'none', b'/mnt', b'tmpfs', 0, 0)", "PermissionError"),  # mount
        ("libc(438, libc(434, os.getpid(), 0), 0, 0)", "PermissionError"),  # pidfd_getfd
    ],
)  # fmt: skip
def test_a_system_call_around_the_hooks_is_refused_as_root_inside_and_works_outside(call: str, outcome: str) -> None:
    """Outside it runs in a mount namespace and cgroup of no interest."""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers in this table are those of x86_64")
    code = (
        "import ctypes, os, socket\n_libc = ctypes.CDLL(None, use_errno=True)\n"
        "array_map = ctypes.create_string_buffer(bytes([2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1]), 72)\n"
        "def libc(*a):\n"
        "    a = [ctypes.c_long(x) if isinstance(x, int) else x for x in a]\n"
        "    r = _libc.syscall(*a); e = ctypes.get_errno()\n"
        "    if r < 0: raise OSError(e, os.strerror(e))\n"
        "    return r\n"
        f"try:\n    r = {call}\n    print('worked')\n"
        "except OSError as e: print(type(e).__name__, e.errno)\n"
    )
    inside = run(PYTHON, "-c", code).stdout.splitlines()
    outside = run_outside("unshare", "--mount", PYTHON, "-c", code).stdout
    assert inside[0].startswith(outcome), inside
    assert "worked" in outside, outside


def test_ordinary_sockets_threads_and_children_work() -> None:
    """The filter closes ways around, not the way."""
    code = (
        "import socket, subprocess, threading, os\n"
        "for f in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX): socket.socket(f).close()\n"
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close(); socket.socketpair()\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "print(subprocess.check_output(['echo', 'child'], text=True), end='')\n"
        "print(socket.if_nameindex()[0][1])"
    )
    for identity in ((), AS_NOBODY):
        ran = run(PYTHON, "-c", code, before=identity)
        assert ran.stdout == "thread\nchild\nlo\n", ran.stderr


def test_a_debugger_works_on_the_commands_own_processes() -> None:
    """They are all that it can see."""
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    ran = run("strace", "-f", "-e", "trace=execve", "true", before=AS_NOBODY)
    assert "exited with 0" in ran.stderr


def test_a_32_bit_system_call_ends_the_program() -> None:
    """int 0x80 has i386's numbers, by which the filter would judge wrongly; outside it is getpid."""
    if platform.machine() != "x86_64":
        pytest.skip("only x86_64 has a second set of numbers in the same process")
    code = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20; int 0x80; ret
        "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nprint(f() > 0)"
    )
    if run_outside(PYTHON, "-c", code).stdout != "True\n":
        pytest.skip("this kernel has no 32-bit system calls")
    assert (
        run(PYTHON, "-c", "import resource; resource.setrlimit(4, (0, 0))\n" + code).returncode == 128 + signal.SIGSYS
    )


def test_keys_cannot_be_typed_into_the_shell_outside() -> None:
    """TIOCSTI: the twin without exeat types into its own terminal."""
    if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text() != "1\n":
        pytest.skip("this kernel refuses TIOCSTI to everybody (dev.tty.legacy_tiocsti=0)")
    code = (
        "import fcntl\ntry:\n    fcntl.ioctl(0, 0x5412, b'x'); print('typed')\n"
        "except PermissionError: print('refused')\n"
    )
    for command, answer in (([PYTHON, "-c", code], b"typed"), (exeat(PYTHON, "-c", code), b"refused")):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(command[0], command, CLEAN_ENVIRONMENT)
        seen = b""
        try:
            while answer not in seen:
                seen += os.read(fd, 1024)
        except OSError:
            pytest.fail(f"{answer!r} not in {seen!r}")  # the terminal hung up
        finally:
            os.waitpid(pid, 0)
            os.close(fd)


@pytest.mark.parametrize(
    ("machine", "header"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        ("aarch64", "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_system_call_numbers_are_the_kernels(machine: str, header: str) -> None:
    """Compared with linux-libc-dev, for both architectures."""
    if not Path(header).exists():
        pytest.skip(f"needs {header} from linux-libc-dev")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text()))
    column = ARCHITECTURES[machine].column
    ours = {name: numbers[column] for name, numbers in {**REFUSED, **CONDITIONAL}.items()}
    younger_than_the_header = {"open_tree_attr"}
    for name, number in ours.items():
        if name not in younger_than_the_header and number is not None:
            assert int(defined[name]) == number, name


# Cgroups and file systems


@IDENTITIES
def test_the_command_cannot_move_to_another_cgroup(identity: tuple[str, ...]) -> None:
    """Not even root's uid, which owns the files: the tree is read-only. The twin may."""
    target = slice_directory().parent / "cgroup.procs"
    ran = run("sh", "-c", f"echo $$ > {target}; cat /proc/self/cgroup", before=identity)
    assert "0::/exeat.slice/run-" in ran.stdout
    assert "Read-only" in ran.stderr or "Permission denied" in ran.stderr
    assert run_outside("sh", "-c", f"echo $$ > {target}").returncode == 0


def test_no_cgroup_of_any_hierarchy_can_be_made_inside() -> None:
    """v1's release_agent and net_cls are ways out, too."""
    directories = [mount.path for mount in read_mounts() if mount.kind in ("cgroup", "cgroup2")]
    assert directories
    for directory in directories:
        path = f"{directory}/exeat-test"
        assert run_outside("sh", "-c", f"mkdir {path} && rmdir {path}").returncode == 0
        assert "Read-only" in run("mkdir", path).stderr


def test_the_bpf_and_tracing_file_systems_are_empty_inside() -> None:
    """Mounted for the test in a namespace that only its two commands see."""
    look = "ls -A /sys/fs/bpf | wc -l; ls -A /sys/kernel/debug | wc -l; ls -A /sys/kernel/tracing | wc -l"
    mounts = (
        "mount -t bpf bpf /sys/fs/bpf && mkdir /sys/fs/bpf/pinned && mount -t debugfs none /sys/kernel/debug && "
        "mount -t tracefs none /sys/kernel/tracing && "
    )
    inside = " ".join(exeat("sh", "-c")) + f" '{look}'"
    ran = run_outside("unshare", "--mount", "sh", "-c", f"{mounts} {{ {look}; {inside}; }}", env=CLEAN_ENVIRONMENT)
    counts = [int(count) for count in ran.stdout.split()]
    assert all(counts[:3]), ran.stderr
    assert counts[3:] == [0, 0, 0]


def test_kernel_settings_are_read_only_even_for_roots_uid() -> None:
    """core_pattern names a program that the kernel starts in the root cgroup. The twin writes what it read."""
    write = 'read -r pattern < /proc/sys/kernel/core_pattern; echo "$pattern" > /proc/sys/kernel/core_pattern'
    assert run_outside("sh", "-c", write).returncode == 0
    assert "Read-only" in run("sh", "-c", write).stderr
    assert "Read-only" in run("touch", "/sys/kernel/uevent_helper").stderr


def test_roots_uid_sees_no_disk() -> None:
    """Its uid alone opens the disk, and with it every file; other users keep the host's /dev and its permissions."""
    disk = next((path for path in Path("/dev").iterdir() if path.is_block_device()), None)
    if disk is None:
        pytest.skip("needs a block device")
    look = ("sh", "-c", f"ls {disk}; echo hello > /dev/null && head -c1 /dev/urandom | wc -c")
    assert str(disk) in run_outside(*look).stdout
    assert run(*look).stdout == "1\n"
    assert str(disk) in run(*look, before=AS_NOBODY).stdout


@IDENTITIES
def test_a_process_outside_cannot_be_seen_signalled_or_walked_through(identity: tuple[str, ...]) -> None:
    """/proc/PID/root of a process of the same user would be a way around every mask."""
    with subprocess.Popen(["sleep", "60"], **outside_as(identity)) as outside:  # type: ignore[call-overload]
        try:
            until(lambda: Path(f"/proc/{outside.pid}/comm").read_text() == "sleep\n", "the process")
            walk = ("sh", "-c", f"ls -d /proc/{outside.pid}/root/run; kill -0 {outside.pid} && echo signalled")
            assert run_outside(*walk, **outside_as(identity)).stdout == f"/proc/{outside.pid}/root/run\nsignalled\n"
            assert run(*walk, before=identity).stdout == ""
        finally:
            outside.kill()


@IDENTITIES
def test_the_init_of_the_namespace_cannot_be_walked_through_or_killed(identity: tuple[str, ...]) -> None:
    """Process 1 in there still has the host's mounts and privileges."""
    ran = run(
        "sh",
        "-c",
        "ls /proc/1/root/ /proc/1/cwd/; cat /proc/1/environ; kill -9 1; sleep 0.1; echo alive",
        before=identity,
    )
    assert ran.stdout == "alive\n"
    assert ran.stderr.count("Permission denied") == 3


def test_a_relative_way_from_the_working_directory_ends_at_the_mask() -> None:
    """The directory that the supervisor stood in lies under the mask."""
    run("true")  # makes /run/exeat
    assert run_outside("ls", "runs", cwd="/run/exeat").returncode == 0
    ran = run("ls", "runs", cwd="/run/exeat")
    assert ran.returncode == 2
    assert run("pwd", cwd="/tmp").stdout == "/tmp\n"


# Sockets


@contextmanager
def listening(path: str, name: str = "deputy") -> Iterator[list[int]]:
    """A daemon that answers its name to whoever connects; yields the list of connections it had."""
    place = Path(path)
    if place.exists():
        pytest.skip(f"{path} belongs to this host")
    made = [parent for parent in place.parents if not parent.exists()]
    for parent in reversed(made):
        parent.mkdir()
        parent.chmod(0o755)
    connections: list[int] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        place.chmod(0o777)
        server.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if connection.recv(99) == b"knock":  # glibc in other processes asks nscd, too
                    connections.append(1)
                    connection.sendall(name.encode())
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield connections
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            place.unlink(missing_ok=True)
            for parent in made:
                parent.rmdir()


def asking(path: str) -> tuple[str, str, str]:
    """A command that connects and prints the answer, or the error."""
    code = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n"
        f"try:\n    s.connect({path!r}); s.sendall(b'knock'); print(s.recv(99).decode())\n"
        "except OSError as e: print(type(e).__name__)\n"
    )
    return (PYTHON, "-c", code)


DEPUTIES = [
    "/run/nscd/socket",
    "/run/docker.sock",
    "/run/snapd.socket",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/systemd/resolve/io.systemd.Resolve",
    f"/run/user/{NOBODY}/bus",
    f"/run/user/{NOBODY}/systemd/private",
    f"/tmp/tmux-{NOBODY}/default",
    "/tmp/.X11-unix/X99",
    "/var/lib/sss/pipes/nss",
    "/run/exeat/test.sock",
]


@pytest.mark.parametrize("path", DEPUTIES)
@IDENTITIES
def test_a_deputys_socket_is_out_of_sight(path: str, identity: tuple[str, ...]) -> None:
    """The same client connects outside; inside the deputy hears nothing (EVASIONS I)."""
    with listening(path) as connections:
        assert run_outside(*asking(path), **outside_as(identity)).stdout == "deputy\n"
        assert len(connections) == 1
        assert run(*asking(path), before=identity).stdout in {
            "FileNotFoundError\n",
            "ConnectionRefusedError\n",
            "PermissionError\n",
        }
        assert len(connections) == 1


def test_a_socket_of_no_deputy_stays_in_reach() -> None:
    """A database of this host, say: the list names whom it means."""
    with listening("/run/exeat-test-database/socket", "database") as connections:
        assert run(*asking("/run/exeat-test-database/socket"), before=AS_NOBODY).stdout == "database\n"
        assert len(connections) == 1


def test_a_deputy_behind_a_symbolic_link_is_out_of_sight_by_both_names() -> None:
    """/run/docker.sock may point to wherever the daemon's data are."""
    link = Path("/run/exeat-test-link.sock")
    with listening("/tmp/exeat-test-data/docker.sock") as connections:
        link.symlink_to("/tmp/exeat-test-data/docker.sock")
        try:
            for path in (str(link), "/tmp/exeat-test-data/docker.sock"):
                assert run_outside(*asking(path)).stdout == "deputy\n"
                assert "Error" in run(*asking(path)).stdout
        finally:
            link.unlink()
        assert len(connections) == 2


def test_a_deputy_behind_a_second_mount_is_out_of_sight(tmp_path: Path) -> None:
    """A chroot with /run bound into it shows the same sockets."""
    view = tmp_path / "run"
    view.mkdir()
    with listening("/run/nscd/socket") as connections:
        inside = " ".join(exeat(PYTHON, "-c")) + ' "$0"'
        script = f'mount --bind /run {view}; {PYTHON} -c "$0"; {inside}'
        code = asking(f"{view}/nscd/socket")[2]
        ran = run_outside("unshare", "--mount", "sh", "-c", script, code, env=CLEAN_ENVIRONMENT)
    assert ran.stdout.splitlines()[0] == "deputy", ran.stderr
    assert "Error" in ran.stdout.splitlines()[1]
    assert len(connections) == 1


@pytest.mark.parametrize("path", ["/run/docker.sock", "/run/nscd/socket"])
def test_a_deputy_that_starts_or_restarts_later_stays_out_of_sight(path: str) -> None:
    """The kernel drops a mount whose file is unlinked: a masked socket alone would come back with its daemon."""
    code = "input(); " + "exec(" + repr(asking(path)[2]) + ")"
    with listening(path), subprocess.Popen(
        exeat(PYTHON, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=CLEAN_ENVIRONMENT
    ) as process:  # fmt: skip
        until(lambda: "python3" in _comm_of_child(process.pid), "the command")
        Path(path).unlink()
        with socket.socket(socket.AF_UNIX) as again:
            again.bind(path)
            again.listen()
            assert process.communicate("\n", timeout=30)[0] == "FileNotFoundError\n"


def _comm_of_child(pid: int) -> str:
    names = []
    for children in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            names.append(Path(f"/proc/{children}/cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):  # it has ended, before or while its file was read
            continue
    return " ".join(name.replace("\0", " ") for name in names if "launch_fixture" not in name)


def test_an_abstract_socket_outside_is_out_of_reach_and_one_inside_is_not() -> None:
    """It has no path to mask; Landlock's scope closes it where the kernel has that."""
    if syscalls.landlock_version() < 6:
        pytest.skip("needs Landlock version 6 (Linux 6.12)")
    name = "\0exeat-test-abstract"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({name!r}); print('connected')"
        assert run_outside(PYTHON, "-c", connect).stdout == "connected\n"
        assert "PermissionError" in run(PYTHON, "-c", connect).stderr
    both = f"import socket; l = socket.socket(socket.AF_UNIX); l.bind({name!r}); l.listen(); {connect}"
    assert run(PYTHON, "-c", both).stdout == "connected\n"


def test_resolv_conf_below_a_rebuilt_directory_stays_readable() -> None:
    """/etc/resolv.conf is a link into it on most hosts, and the directory beside it stays as it is."""
    directory = Path("/run/systemd/resolve")
    if directory.exists():
        pytest.skip("systemd-resolved runs here")
    directory.mkdir()
    try:
        (directory / "stub-resolv.conf").write_text("nameserver 127.0.0.53\n")
        assert run("cat", str(directory / "stub-resolv.conf"), before=AS_NOBODY).stdout == "nameserver 127.0.0.53\n"
    finally:
        shutil.rmtree(directory)


def test_a_user_has_a_runtime_directory_of_its_own_inside() -> None:
    """XDG_RUNTIME_DIR works, empty; what the command puts there is gone with it."""
    directory = Path(f"/run/user/{NOBODY}")
    if directory.exists():
        pytest.skip("nobody is logged in here")
    directory.mkdir(parents=True)
    try:
        os.chown(directory, NOBODY, NOBODY)
        (directory / "secret").touch()
        ran = run("sh", "-c", f"ls -A {directory}; echo x > {directory}/own && cat {directory}/own", before=AS_NOBODY)
        assert ran.stdout == "x\n", ran.stderr
        assert [path.name for path in directory.iterdir()] == ["secret"]
    finally:
        shutil.rmtree(directory)


def test_every_masked_path_has_its_story_and_stands_once() -> None:
    """The list is printed in the README."""
    rules = [*masked_sockets.MASKED, *masked_sockets.MASKED_SOCKETS, *masked_sockets.SCRATCH]
    assert all(rule.story for rule in rules)
    assert len({rule.pattern for rule in rules}) == len(rules)
    assert all(rule.pattern.startswith(("/", "~/")) for rule in rules)


def test_the_hosts_mounts_are_as_before() -> None:
    """The namespace is private: nothing of it came out."""
    before = Path("/proc/self/mountinfo").read_text()
    with subprocess.Popen(exeat("true")) as process:
        process.wait()
    assert left_behind(process.pid, "no such mark") == []
    assert Path("/proc/self/mountinfo").read_text() == before
