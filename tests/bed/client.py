"""The workload's side: commands and Python functions inside the client namespace and, if wanted, inside a cgroup.

With at=bed.network.hosts they run on the other side of the wire: a stranger that dials in, or a server of one's own.
"""

from __future__ import annotations

import os
import pickle
import pwd
import selectors
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bed.namespace import Namespace, die_with_parent, enter

if TYPE_CHECKING:
    from bed import Bed
    from bed.hosts import Host

T = TypeVar("T")

LIMIT_S = 20.0


@dataclass(frozen=True)
class Finished:
    """A command that has ended, as subprocess.CompletedProcess (text), with its wall time in seconds."""

    args: list[str]
    returncode: int
    stdout: str
    stderr: str
    duration: float


def _settle_in(place: Namespace, cgroup: Path | None, user: str | int | None) -> None:
    """Make the calling process a workload: namespace, cgroup, then user, before it runs anything of its own."""
    enter(place.fd)
    if cgroup is not None:
        (Path(cgroup) / "cgroup.procs").write_text("0")  # 0 is whoever writes
    if user is not None:
        entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    die_with_parent()  # last, for setuid takes it back


def start_in(
    bed: Bed,
    argv: Sequence[str],
    *,
    cgroup: Path | None = None,
    env: Mapping[str, str] | None = None,
    user: str | int | None = None,
    at: Namespace | None = None,
    **options: Any,
) -> subprocess.Popen[str]:
    """Start a command as a workload and do not wait. The bed kills it when it closes; `options` go to Popen.

    It leads a session of its own, and dies with the thread that called this.
    """
    if cgroup is not None and not (Path(cgroup) / "cgroup.procs").exists():
        raise FileNotFoundError(f"{cgroup} is no cgroup")  # in the child it would be a SubprocessError without a word
    place = at or bed.network.client
    process: subprocess.Popen[str] = subprocess.Popen(
        [str(word) for word in argv],
        env=os.environ | dict(env or {}),
        preexec_fn=lambda: _settle_in(place, cgroup, user),
        start_new_session=True,
        text=True,
        **options,
    )
    bed.own(process)
    return process


def run_in(
    bed: Bed,
    argv: Sequence[str],
    *,
    cgroup: Path | None = None,
    timeout: float = LIMIT_S,
    env: Mapping[str, str] | None = None,
    user: str | int | None = None,
    at: Namespace | None = None,
    stdin: str = "",
) -> Finished:
    """Run a command as a workload to its end. `env` is added to this process's environment.

    Past the timeout its whole session is killed and subprocess.TimeoutExpired raised: a hang is a finding.
    """
    began = time.monotonic()
    pipe = subprocess.PIPE
    pipes = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
    process = start_in(bed, argv, cgroup=cgroup, env=env, user=user, at=at, errors="replace", **pipes)
    try:
        stdout, stderr = process.communicate(stdin, timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    finally:
        bed.disown(process)
    return Finished(list(argv), process.returncode, stdout, stderr, time.monotonic() - began)


def call_in(
    bed: Bed,
    function: Callable[[], T],
    *,
    cgroup: Path | None = None,
    timeout: float = LIMIT_S,
    user: str | int | None = None,
    at: Namespace | None = None,
) -> T:
    """Run a function as a workload, in a forked child, and return its result or raise its exception here.

    The result or exception travels pickled; the function need not be. An exception that cannot be pickled arrives as a
    RuntimeError with its traceback. Past the timeout the child is killed and TimeoutError raised; so it is if the
    function leaves a process behind that holds the pipe.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(function, (at or bed.network.client, cgroup, user), writer)  # does not return
    os.close(writer)
    try:
        answer = _read_all(reader, timeout)
    finally:
        os.close(reader)
        if os.waitpid(child, os.WNOHANG) == (0, 0):  # it has answered, or never will
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if not answer:
        raise RuntimeError("the function's process ended without an answer")
    is_good, result = pickle.loads(answer)
    if not is_good:
        raise result
    return result


def _child(function: Callable[[], Any], whereabouts: tuple[Any, ...], writer: int) -> None:
    answer = b""
    try:
        _settle_in(*whereabouts)
        answer = pickle.dumps((True, function()))
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        answer = _pickled(error)
    finally:
        try:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)


def _pickled(error: BaseException) -> bytes:
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)  # some exceptions can be written and not read
    except Exception:  # noqa: BLE001  # whatever such an exception does
        return pickle.dumps((False, RuntimeError("".join(traceback.format_exception(error)))))
    return answer


def _read_all(descriptor: int, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    answer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"the function did not end within {timeout} s")
            part = os.read(descriptor, 1 << 16)
            if not part:
                return answer
            answer += part


def curl(bed: Bed, host: Host, address: str | None = None, *, name: str | None = None, **how: Any) -> Finished:
    """curl https://name/ as a workload, to one address of the host (its IPv4 one by default) without asking DNS.

    `name` is what URL and SNI say, by default the host's own; `how` goes to run_in.
    """
    name = name or host.name
    address = address or host.address4
    bracketed = f"[{address}]" if ":" in address else address
    words = ["curl", "--silent", "--show-error", "--cacert", str(bed.authority.ca_file)]
    return run_in(bed, [*words, "--resolve", f"{name}:443:{bracketed}", f"https://{name}/"], **how)
