"""Grace periods are short for the moment of a call, and afterwards as they were: for everybody on this host."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from exeat.kernel import grace_periods
from exeat.kernel.grace_periods import short_grace_periods

LONG = b"0\n"


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the kernel's, so that no other test has it changed."""
    path = tmp_path / "rcu_expedited"
    path.write_bytes(LONG)
    monkeypatch.setattr(grace_periods, "EXPEDITED", path)
    monkeypatch.setattr(grace_periods, "LOCK", tmp_path / "run" / "exeat" / "rcu_expedited")
    return path


def test_they_are_short_inside_and_as_before_outside(setting: Path) -> None:
    """Each time anew, and nothing is left in the lock's file."""
    for _ in range(2):
        with short_grace_periods():
            assert setting.read_bytes() == b"1\n"
        assert setting.read_bytes() == LONG
        assert grace_periods.LOCK.read_bytes() == b""


def test_an_error_inside_puts_them_back(setting: Path) -> None:
    """Of whatever kind."""
    seen = []

    def fail(kind: type[BaseException]) -> None:
        with short_grace_periods():
            seen.append(setting.read_bytes())
            raise kind

    for kind in (OSError, KeyboardInterrupt):
        with pytest.raises(kind):
            fail(kind)
        assert setting.read_bytes() == LONG
    assert seen == [b"1\n"] * 2


def test_who_wants_them_short_anyway_keeps_them_so(setting: Path) -> None:
    """An administrator, by the kernel's command line or by hand."""
    setting.write_bytes(b"1\n")
    with short_grace_periods():
        assert setting.read_bytes() == b"1\n"
    assert setting.read_bytes() == b"1\n"


def test_while_another_has_them_short_they_are_his(setting: Path) -> None:
    """Two agents on one host: the second would take the first one's value for the one to put back."""
    with short_grace_periods():
        with short_grace_periods():
            assert setting.read_bytes() == b"1\n"
        assert setting.read_bytes() == b"1\n"
    assert setting.read_bytes() == LONG


def test_what_somebody_left_who_was_killed_is_put_back_by_the_next(setting: Path) -> None:
    """He had no time to."""
    pid = os.fork()
    if pid == 0:
        with short_grace_periods():
            os._exit(0)
    os.waitpid(pid, 0)
    assert setting.read_bytes() == b"1\n"
    with short_grace_periods():
        assert setting.read_bytes() == b"1\n"
    assert setting.read_bytes() == LONG


@pytest.mark.parametrize("missing", ["setting", "lock"])
def test_where_it_cannot_be_set_all_is_as_it_is(setting: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kernel, or a file system that is read only."""
    monkeypatch.setattr(grace_periods, "LOCK" if missing == "lock" else "EXPEDITED", Path("/proc/nosuch/file"))
    done = False
    with short_grace_periods():
        done = True
        assert setting.read_bytes() == LONG
    assert done
    assert setting.read_bytes() == LONG


@contextmanager
def alone() -> Iterator[None]:
    """Holds the host's own lock, so that nobody else sets it meanwhile."""
    lock = os.open(grace_periods.LOCK, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def test_the_kernels_own_is_set_and_put_back() -> None:
    """For a thousandth of a second at most. Others may be about it, too: any of some tries will do."""
    if os.geteuid() != 0 or not os.access(grace_periods.EXPEDITED, os.W_OK):
        pytest.skip("rcu_expedited of this kernel cannot be written")
    took, seen = [], set()
    for _ in range(20):
        began = time.perf_counter()
        with short_grace_periods():
            seen.add(grace_periods.EXPEDITED.read_bytes())
        took.append(time.perf_counter() - began)
    assert b"1\n" in seen
    assert min(took) < 0.001
    with alone():
        assert grace_periods.EXPEDITED.read_bytes() == LONG
