"""Every cgroup of the host, as they come and go."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from exeat.kernel.filesystems import levels_above
from exeat.kernel.inotify import CREATED, DELETED, MODIFIED, SELF_DELETED, Inotify

_EVENTS_FILE = "cgroup.events"
_PROCESSES_FILE = "cgroup.procs"
_FAR_DOWN = 8  # levels that a cgroup namespace may be below the root, where nobody can say: Kubernetes uses 6


@dataclass(slots=True)
class News:
    """What has changed since it was last asked."""

    came: set[str] = field(default_factory=set)
    went: set[str] = field(default_factory=set)
    peopled: set[str] = field(default_factory=set)  # processes came into them, or all went
    replaced: set[int] = field(default_factory=set)  # ids that stand for something else than before


class Census:
    """Paths of the hierarchy ("/" is its root) with the kernel's ids of them."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        above = levels_above(mount)
        self._above = _FAR_DOWN if above is None else above
        self._inotify = Inotify()
        self._ids: dict[str, int] = {}
        self._by_id: dict[int, str] = {}
        self._attended: set[str] = set()
        self._unattended: set[str] = set()  # for which there was no room
        self._found: set[str] = set()  # of which read() has still to tell
        self.complaint = ""  # why it may not hear of everything: look again

    def fileno(self) -> int:
        """Readable when something has changed."""
        return self._inotify.fileno()

    def __len__(self) -> int:
        return len(self._ids)

    def id_of(self, path: str) -> int | None:
        """A cgroup's id; None: there is no such cgroup."""
        return self._ids.get(path)

    def path_of(self, cgroup: int) -> str | None:
        """The path of an id; None: it has gone."""
        return self._by_id.get(cgroup)

    def places(self) -> tuple[tuple[int, str], ...]:
        """All of them, ids with paths."""
        return tuple(self._by_id.items())

    def paths(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._ids)

    def level_of(self, path: str) -> int:
        """How far below the root of all it is."""
        return self._above + (0 if path == "/" else path.count("/"))

    def directory(self, path: str) -> Path:
        """In the file system."""
        return self._mount / path.lstrip("/")

    def look(self) -> News:
        """Reads the whole tree."""
        self.complaint = ""
        news = self._look(News())
        for path in list(self._unattended):
            self.attend(path)
            news.peopled.add(path)
        return news

    def _look(self, news: News) -> News:
        seen: set[str] = set()
        self._enter("/", news, seen)
        for path in [path for path in self._ids if path not in seen]:
            self._forget(path, news)
        return news

    def read(self) -> News:
        """What inotify tells."""
        news, self._found = News(came=self._found), set()
        for happening in self._inotify.read():
            if happening.path is None:  # some were lost, and processes may have come anywhere
                news.peopled |= self._attended
                return self._look(news)
            if happening.path.name == _EVENTS_FILE:
                news.peopled.add(self._name(happening.path.parent))
            elif happening.mask & CREATED and happening.is_directory:
                self._enter(self._name(happening.path), news, set())
            elif happening.is_directory or happening.mask & SELF_DELETED:
                self._leave(self._name(happening.path), news)
        return news

    def find(self, path: str) -> News:
        """Looks at one cgroup now, however much of what changed is still to be read."""
        news = News()
        if os.path.normpath(path) != path:  # it would lead out of the tree
            return news
        if self.directory(path).is_dir():
            self._enter(path, news, set())
        elif path in self._ids:
            self._leave(path, news)
        self._found |= news.came
        return news

    def attend(self, path: str) -> None:
        """From now on news tells when processes come into it, or all have gone."""
        if path in self._attended:
            return
        self._unattended.discard(path)
        try:
            if self._inotify.watch(self.directory(path) / _EVENTS_FILE, MODIFIED):
                self._attended.add(path)
        except OSError as error:
            self._complain(error)
            self._unattended.add(path)

    def pids(self, path: str) -> Iterator[int]:
        """The processes in it and below."""
        for directory, _, _ in os.walk(self.directory(path)):
            try:
                yield from map(int, Path(directory, _PROCESSES_FILE).read_text().split())
            except OSError:  # it has gone, or is a threaded one, whose processes its parent lists
                continue

    def where_is(self, pid: int) -> str | None:
        """The cgroup of a process, also for who is in a cgroup namespace of its own; None: it is not seen here."""
        for path in self._ids:
            try:
                if str(pid) in (self.directory(path) / _PROCESSES_FILE).read_text().split():
                    return path
            except OSError:  # it has gone, or is a threaded one
                continue
        return None

    def close(self) -> None:
        """Looks no more."""
        self._inotify.close()

    def _watch(self, path: Path, mask: int) -> bool:
        try:
            return self._inotify.watch(path, mask)
        except OSError as error:  # it is there all the same
            self._complain(error)
            return path.exists()

    def _below(self, path: str, seen: set[str]) -> list[str]:
        try:
            return [one.name for one in os.scandir(self.directory(path)) if one.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            raise
        except OSError as error:  # what was known below it is there, as far as anybody can say
            self._complain(error)
            seen.update(one for one in self._ids if one.startswith(f"{path.rstrip('/')}/"))
            return []

    def _complain(self, error: OSError) -> None:
        what = "fs.inotify.max_user_watches is reached" if error.errno == errno.ENOSPC else str(error)
        self.complaint = f"cgroups are looked for every few seconds instead of being told of: {what}"

    def _name(self, directory: Path) -> str:
        return "/" if directory == self._mount else f"/{directory.relative_to(self._mount)}"

    def _enter(self, path: str, news: News, seen: set[str]) -> None:
        """One more, with all below it: they may have come before the watch did."""
        waiting = [path]
        while waiting:
            path = waiting.pop()
            directory = self.directory(path)
            try:
                if not self._watch(directory, CREATED | DELETED | SELF_DELETED):
                    raise FileNotFoundError
                cgroup = directory.stat().st_ino
                below = self._below(path, seen)
            except FileNotFoundError:  # it has gone again; of another one before it nobody may have told
                if path in self._ids:
                    self._forget(path, news)
                continue
            seen.add(path)
            if self._ids.get(path) != cgroup:
                if path in self._ids:
                    self._forget(path, news)  # gone, and made anew under the same name
                self._ids[path] = cgroup
                self._by_id[cgroup] = path
                news.came.add(path)
            waiting.extend(f"{path.rstrip('/')}/{name}" for name in below)

    def _leave(self, path: str, news: News) -> None:
        if self.directory(path).exists():  # made anew meanwhile
            self._enter(path, news, set())
            return
        if path in self._ids:  # what was below it went before, and was told of as well
            self._forget(path, news)

    def _forget(self, path: str, news: News) -> None:
        cgroup = self._ids.pop(path)
        self._by_id.pop(cgroup, None)
        self._attended.discard(path)
        self._unattended.discard(path)
        news.went.add(path)
