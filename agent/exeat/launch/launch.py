"""One run from beginning to end: prepare(), then the caller binds a policy to `cgroup_id`, start(), wait(), end()."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from exeat.errors import LaunchError
from exeat.launch import cgroup, child, descriptors, runs, signals, syscalls
from exeat.launch.cgroup import Leaf
from exeat.launch.guardian import Guardian, start_guardian
from exeat.launch.identity import Identity
from exeat.launch.runs import OnEnd


class Launch:
    """One command in a leaf cgroup of its own; a context manager whose exit is end().

    Single-threaded processes only: it forks, and waits for signals by blocking them.
    """

    def __init__(self, command: child.Command, record: int, guardian: Guardian, on_end: OnEnd) -> None:
        self._command = command
        self._record = record
        self._guardian = guardian
        self._on_end = on_end
        self._init: int | None = None
        self._child: int | None = None
        self._mask: signals.Mask | None = None
        self._terminal: int | None = None
        self._ended = False

    @classmethod
    def prepare(
        cls,
        argv: Sequence[str],
        identity: Identity,
        on_end: OnEnd,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """End what dead runs left, make a leaf, and a guardian for it. No command runs before start().

        `on_end(leaf)` is called once nothing runs in the leaf and the leaf is gone: here, in the guardian if this
        process dies, or in a later run if the guardian died too. It is copied into the guardian *now*: it must find
        what it needs by the leaf's cgroup id, open its own descriptors, and bear being called twice.
        """
        if not argv or not argv[0]:
            raise LaunchError("there is no command to run; put it after --")
        descriptors.check_standard()
        name = runs.new_name()
        try:
            runs.sweep(on_end)
            record = runs.open_unnamed_record()
            guardian = start_guardian(record, lambda: runs.end_run(name, on_end))
        except OSError as error:
            raise LaunchError(f"cannot prepare a run: {error}; exeat run needs root") from error
        try:
            runs.publish(record, name)
            leaf = cgroup.make_leaf(name)
            runs.write_leaf(record, leaf)
        except (OSError, LaunchError) as error:
            guardian.leave()
            os.close(record)
            raise LaunchError(f"cannot make a cgroup for the command: {error}") from error
        command = child.Command(argv, os.environ if environment is None else environment, identity, leaf)
        return cls(command, record, guardian, on_end)

    @property
    def leaf(self) -> Leaf:
        """The cgroup with all of its names."""
        return self._command.leaf

    @property
    def cgroup_id(self) -> int:
        """The kernel's id of the leaf: what to bind the policy to."""
        return self.leaf.cgroup_id

    @property
    def cgroup_path(self) -> str:
        """The leaf's path in the hierarchy, as it stands in verdicts."""
        return self.leaf.cgroup_path

    @property
    def directory(self) -> Path:
        """The leaf in the file system."""
        return self.leaf.directory

    def start(self) -> int:
        """Start the command and return its pid once it *is* the command. From here on signals are held for wait()."""
        if self._mask is not None or self._ended:
            raise LaunchError("start() twice, or after end()")
        self._terminal = signals.foreground_terminal()
        self._mask = signals.block()
        report, theirs = os.pipe()
        try:
            self._fork_into_new_pid_namespace(theirs, self._mask)
        except OSError as error:
            raise LaunchError(f"cannot start a process for the command: {error}") from error
        finally:
            os.close(theirs)
            failure = child.read_failure(report)
        if failure:
            raise failure
        assert self._child is not None
        descriptors.leave_output()
        return self._child

    def _fork_into_new_pid_namespace(self, report: int, mask: signals.Mask) -> None:
        outside = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.unshare(syscalls.CLONE_NEWPID)
            self._start_init()
            self._child = os.fork()
            if self._child == 0:
                child.run_command(self._command, report, mask)
        finally:
            syscalls.setns(outside, syscalls.CLONE_NEWPID)  # the caller's other children are to be its own again
            os.close(outside)

    def _start_init(self) -> None:
        """The first process after unshare() is process 1 there, and must be able to die with us before there is a 2."""
        ready, theirs = os.pipe()
        supervisor = os.pidfd_open(os.getpid())
        try:
            self._init = os.fork()
            if self._init == 0:
                child.run_init(self.leaf, theirs, supervisor)
        finally:
            os.close(supervisor)
            os.close(theirs)
        with os.fdopen(ready, "rb") as told:
            if told.read() != child.READY:
                raise LaunchError("the init process of the command's PID namespace did not start")

    def wait(self) -> int:
        """Pass signals on until the command ends; its exit status, or 128+N if signal N ended it."""
        if self._child is None:
            raise LaunchError("wait() before start()")
        pid, self._child = self._child, None
        return signals.wait_for(pid, self.directory)

    def end(self) -> None:
        """Kill whatever is left in the leaf, remove it, call `on_end`, and let signals through again."""
        if self._ended:
            return
        self._ended = True
        try:
            runs.end_run(self.leaf.name, self._on_end)
            for pid in (self._child, self._init):
                if pid:
                    os.waitpid(pid, 0)
            if self._terminal is not None:
                signals.take_terminal_back(self._terminal)
        except OSError as error:
            raise LaunchError(f"cannot remove the cgroup of the command: {error}; the next run tries again") from error
        finally:
            self._guardian.dismiss()
            os.close(self._record)
            if self._mask is not None:
                signals.unblock(self._mask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
