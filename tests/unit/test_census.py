"""The census of cgroups, on a real hierarchy: who came, who went, who was made anew. Needs root and a cgroup2 mount."""

import errno
import multiprocessing
import os
import random
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.agent.census import Census, News
from exeat.kernel.filesystems import mount_point
from exeat.kernel.inotify import OVERFLOWN, Happening


@pytest.fixture
def top() -> Iterator[Path]:
    """A cgroup for the test, removed with all below it."""
    mount = mount_point("cgroup2")
    if mount is None or os.geteuid() != 0:
        pytest.skip("cgroups are made by root, below a cgroup2 mount")
    top = Path(mount) / f"exeat-census-{os.getpid()}"
    top.mkdir()
    yield top
    for directory, _, _ in os.walk(top, topdown=False):
        os.rmdir(directory)


@pytest.fixture
def census(top: Path) -> Iterator[Census]:
    """Of the whole host, looked at once."""
    census = Census(top.parent)
    census.look()
    yield census
    census.close()


def all_news(census: Census) -> News:
    """Everything that is to be read."""
    whole = News()
    while select.select([census], [], [], 0)[0]:
        one = census.read()
        whole.came |= one.came
        whole.went |= one.went
        whole.peopled |= one.peopled
    return whole


def own(top: Path, paths: set[str]) -> set[str]:
    """Of the test: others make cgroups, too."""
    return {path for path in paths if path.startswith(f"/{top.name}")}


def tree(top: Path) -> dict[str, int]:
    """As the file system has it."""
    mount = top.parent
    return {
        f"/{Path(directory).relative_to(mount)}": os.stat(directory).st_ino for directory, _, _ in os.walk(top)
    }  # fmt: skip


def known(census: Census, top: Path) -> dict[str, int | None]:
    """As the census has it."""
    return {path: census.id_of(path) for path in census.paths() if path.startswith(f"/{top.name}")}


def test_who_comes_and_who_goes_is_told_once(census: Census, top: Path) -> None:
    """With the kernel's id, by which it is found as well."""
    (top / "one").mkdir()
    news = all_news(census)
    path = f"/{top.name}/one"
    assert (path in news.came, path in news.went) == (True, False)
    cgroup = census.id_of(path)
    assert cgroup == (top / "one").stat().st_ino
    assert census.path_of(cgroup) == path
    (top / "one").rmdir()
    news = all_news(census)
    assert (path in news.came, path in news.went) == (False, True)
    assert (census.id_of(path), census.path_of(cgroup)) == (None, None)


def test_what_is_made_below_before_the_watch_is_found(census: Census, top: Path) -> None:
    """A whole branch at once, as systemd makes it."""
    (top / "a" / "b" / "c").mkdir(parents=True)
    all_news(census)
    assert known(census, top) == tree(top)


def test_a_cgroup_made_anew_under_its_name_has_gone_and_come(census: Census, top: Path) -> None:
    """Another id is another workload."""
    path = f"/{top.name}/one"
    (top / "one").mkdir()
    all_news(census)
    before = census.id_of(path)
    (top / "one").rmdir()
    (top / "one").mkdir()
    news = all_news(census)
    assert path in news.came
    assert path in news.went
    assert census.id_of(path) not in (before, None)
    assert census.path_of(before or 0) is None


def test_processes_that_come_are_told_of_where_somebody_attends(census: Census, top: Path) -> None:
    """And their ids are found, also of those below."""
    for name in ("one", "two"):
        (top / name / "below").mkdir(parents=True)
    all_news(census)
    census.attend(f"/{top.name}/one")
    child = os.fork()
    if child == 0:
        for name in ("two", "one"):
            (top / name / "below" / "cgroup.procs").write_text("0")
        os.pause() if hasattr(os, "pause") else __import__("signal").pause()
    try:
        told: set[str] = set()
        for _ in range(1000):
            told |= census.read().peopled
            if child in census.pids(f"/{top.name}/one") and told:
                break
            __import__("time").sleep(0.005)
        assert told == {f"/{top.name}/one"}
        assert list(census.pids(f"/{top.name}/one")) == [child]
        assert list(census.pids(f"/{top.name}/two")) == []
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        while list(census.pids(f"/{top.name}")):
            pass


def test_one_cgroup_is_found_before_what_changed_is_read(census: Census, top: Path) -> None:
    """Whatever else waits; nothing outside of the hierarchy is."""
    (top / "one").mkdir()
    assert census.find(f"/{top.name}/one").came == {f"/{top.name}/one"}
    (top / "one").rmdir()
    assert census.find(f"/{top.name}/one").went == {f"/{top.name}/one"}
    for odd in (f"/{top.name}/../../../etc", f"/{top.name}//", f"/{top.name}/.", "/.."):
        assert not census.find(odd).came
        assert census.id_of(odd) is None


def _storm(top: Path, seed: int, count: int) -> None:
    dice = random.Random(seed)
    for number in range(count):
        place = top / f"{seed}-{dice.randrange(5)}"
        below = place / "below"
        if place.exists():
            for one in (below, place):
                if one.exists():
                    one.rmdir()
        else:
            below.mkdir(parents=True)
        if number == count - 1:
            (top / f"{seed}-last").mkdir()


def wait_until_it_is_the_tree(census: Census, top: Path) -> None:
    """A cgroup's end is told when nobody has its directory open any more, and others look through the tree as well."""
    deadline = time.monotonic() + 10
    while all_news(census) and known(census, top) != tree(top) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert known(census, top) == tree(top)


def test_after_a_storm_the_census_is_the_tree(census: Census, top: Path) -> None:
    """Four processes make and remove cgroups while it reads, and while it does not: also when inotify loses some."""
    for is_reading in (True, False):
        processes = [multiprocessing.Process(target=_storm, args=(top, seed, 500)) for seed in range(4)]
        for process in processes:
            process.start()
        while is_reading and any(process.is_alive() for process in processes):
            census.read()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        wait_until_it_is_the_tree(census, top)
        for directory, _, _ in os.walk(top, topdown=False):
            if directory != str(top):
                os.rmdir(directory)
        wait_until_it_is_the_tree(census, top)


def test_what_was_read_just_before_some_was_lost_is_told_all_the_same(
    census: Census, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in it is found by nobody else: the tree does not know it as new any more."""
    (top / "attended").mkdir()
    all_news(census)
    census.attend(f"/{top.name}/attended")
    for name in ("first", "second", "third"):
        (top / name).mkdir()
    real = [one for one in census._inotify.read() if one.path and one.path.parent == top]
    assert len(real) == 3
    lost = Happening(None, OVERFLOWN)
    monkeypatch.setattr(census._inotify, "read", lambda: iter([*real[:2], lost, real[2]]))
    news = census.read()
    assert own(top, news.came) == {f"/{top.name}/{name}" for name in ("first", "second", "third")}
    assert news.peopled >= {f"/{top.name}/attended"}
    assert known(census, top) == tree(top)


def test_where_the_kernel_gives_no_more_watches_the_tree_is_known_by_looking(
    census: Census, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so until it hears of everything again."""

    def refuse(path: Path, mask: int) -> bool:
        raise OSError(errno.ENOSPC, "no space left on device")

    watch = census._inotify.watch
    monkeypatch.setattr(census._inotify, "watch", refuse)
    (top / "a" / "b").mkdir(parents=True)
    assert own(top, all_news(census).came) == {f"/{top.name}/a", f"/{top.name}/a/b"}
    assert "max_user_watches" in census.complaint
    (top / "a" / "b" / "c").mkdir()
    assert own(top, all_news(census).came) == set()  # nobody tells
    assert own(top, census.look().came) == {f"/{top.name}/a/b/c"}
    assert known(census, top) == tree(top)
    monkeypatch.setattr(census._inotify, "watch", watch)
    census.look()
    assert census.complaint == ""
    (top / "a" / "b" / "d").mkdir()
    assert own(top, all_news(census).came) == {f"/{top.name}/a/b/d"}


def test_what_could_not_be_attended_to_is_attended_to_once_there_is_room(
    census: Census, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes may have come meanwhile: that is told once."""
    (top / "a").mkdir()
    all_news(census)

    def refuse(path: Path, mask: int) -> bool:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as full:
        full.setattr(census._inotify, "watch", refuse)
        census.attend(f"/{top.name}/a")
        assert "max_user_watches" in census.complaint
    assert f"/{top.name}/a" in census.look().peopled
    assert census.complaint == ""
    process = subprocess.Popen(["sleep", "60"])
    try:
        (top / "a" / "cgroup.procs").write_text(str(process.pid))
        assert select.select([census], [], [], 5)[0]
        assert own(top, all_news(census).peopled) == {f"/{top.name}/a"}
    finally:
        process.kill()
        process.wait()


def test_a_cgroup_into_which_nobody_can_look_is_there_all_the_same(
    census: Census, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As without descriptors: what was known below it is not taken for gone, and it is looked at again."""
    (top / "old" / "below").mkdir(parents=True)
    all_news(census)
    scandir = os.scandir

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        if "old" in Path(path).name or "new" in Path(path).name:
            raise OSError(errno.EMFILE, "too many open files")
        return scandir(path)

    with monkeypatch.context() as full:
        full.setattr(os, "scandir", refuse)
        (top / "new").mkdir()
        assert own(top, all_news(census).came) == {f"/{top.name}/new"}
        assert own(top, census.look().went) == set()
        assert "too many open files" in census.complaint
    assert known(census, top) == tree(top)
    census.look()
    assert census.complaint == ""


def test_one_that_was_found_is_told_of_once_more(census: Census, top: Path) -> None:
    """Whoever looked for it does not do what is done for those that come."""
    (top / "found").mkdir()
    assert own(top, census.find(f"/{top.name}/found").came) == {f"/{top.name}/found"}
    assert own(top, all_news(census).came) == {f"/{top.name}/found"}
    assert own(top, all_news(census).came) == set()
