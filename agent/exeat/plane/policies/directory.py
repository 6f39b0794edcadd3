"""Policies in a directory, for teams that keep them in git: what is in the files shall hold, all of it or nothing.

Files end in .yaml or .yml, in subdirectories too; what begins with a dot is passed over. While anything in there is
wrong, everything stays as it was, and problems() says why. Several replicas may look at copies of the same directory.
"""

import logging
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exeat.errors import ExeatError, PolicyError, Refused
from exeat.plane.policies import git_author, policies
from exeat.plane.policies.policies import Change, Draft, Placed, Plan, Source
from exeat.plane.store.database import Database, Tx

_log = logging.getLogger("exeat")
_SUFFIXES = (".yaml", ".yml")
_FILES_MAX = 2000
_SIZE_MAX = 8 << 20
_SETTLED_NS = 200_000_000  # a checkout writes one file after the other
_GIT_LOCK_NS = 60 * 1_000_000_000  # git holds it while it writes files; one that is older was left behind

_EMPTY = (
    "{path}: the directory is empty, where {count} policies were: is it mounted? They stay in force. To remove all of "
    "them, leave another file in it, a README for example"
)

_Prints = dict[str, tuple[int, int, int]]  # by path in the directory: when it changed, size, inode


@dataclass(frozen=True, slots=True)
class _Seen:
    prints: _Prints
    is_bare: bool  # there is no file at all in there, but hidden ones: a clone begins with `.git`
    problems: tuple[str, ...] = ()


class PolicyDirectory:
    """Looked at now and then by one thread; what it says of itself, any thread may ask.

    `plan`: how changes go out; None: to every node at once.
    """

    def __init__(self, path: Path, plan: Plan | None = None) -> None:
        self.path = path
        self._plan = plan
        self._problems: tuple[str, ...] = ()
        self._warnings: tuple[str, ...] = ()
        self._settled: _Seen | None = None  # what was read last, whatever came of it
        self._looking = threading.Lock()
        self._drafts: dict[tuple[str, str], Draft] = {}  # what has not changed is not read again

    def problems(self) -> tuple[str, ...]:
        """Why what is in there now is not in force, each as `file:line: what, what instead`; empty: it is."""
        return self._problems

    def warnings(self) -> tuple[str, ...]:
        """What is in force, and deserves a second look."""
        return self._warnings

    def look(self, database: Database, now_ns: int) -> tuple[Placed, ...]:
        """Reads what has changed since the last look and makes it hold; what became of each changed policy."""
        with self._looking:
            seen = _see(self.path)
            if seen.problems:
                self._settled = None
                self._note(seen.problems)
                return ()
            if _is_git_at_work(self.path, now_ns):
                return ()
            newest = max((changed for changed, _, _ in seen.prints.values()), default=0)
            if seen == self._settled or 0 <= now_ns - newest < _SETTLED_NS:
                return ()
            try:
                drafts = self._read(seen.prints)
                if _see(self.path) != seen:
                    return ()  # somebody is still writing
                placed = self._place(database, drafts, seen.is_bare, now_ns)
            except (PolicyError, Refused) as error:
                # Once: a store that is away raises something else, and is asked again at the next look.
                self._settled = seen if isinstance(error, PolicyError) else None
                self._note(error.problems if isinstance(error, PolicyError) else (f"{self.path}: {error}",))
                return ()
            self._settled = seen
            self._drafts = {(draft.where, draft.text): draft for draft in drafts}
            self._warnings = tuple(warning for draft in drafts for warning in draft.warnings)
            self._note(())
            return placed

    def _read(self, prints: _Prints) -> tuple[Draft, ...]:
        texts: list[tuple[str, str]] = []
        problems = []
        for name in sorted(prints):
            try:
                texts.append((name, (self.path / name).read_bytes().decode()))
            except UnicodeDecodeError as error:
                problems.append(f"{name}:1: this is no UTF-8 text (byte {error.start + 1}): save it as such")
            except OSError as error:
                problems.append(f"{name}:1: it cannot be read: {error.strerror}")
        known = {text: self._drafts[text] for text in texts if text in self._drafts}
        try:
            read = {
                (draft.where, draft.text): draft
                for draft in policies.read_all(one for one in texts if one not in known)
            }
        except PolicyError as error:
            problems += error.problems
        if problems:
            raise PolicyError(problems)
        drafts = tuple({**known, **read}[text] for text in texts)
        policies.refuse_same_names(drafts)
        return drafts

    def _place(self, database: Database, drafts: tuple[Draft, ...], is_bare: bool, now_ns: int) -> tuple[Placed, ...]:
        with database.reading() as tx:
            wanted = _difference(tx, drafts)
        if not wanted:
            return ()
        if is_bare:
            raise PolicyError([_EMPTY.format(path=self.path, count=len(wanted.gone))])
        author = git_author.author_of(self.path, [(draft.where, draft.text) for draft in wanted.drafts])
        by, reason = (author.name, author.commit) if author else ("directory", f"files in {self.path}")
        change = Change(by, reason, now_ns, plan=self._plan, source=Source.DIRECTORY)
        with database.writing() as tx:
            placed = policies.place(tx, wanted.drafts, change)
            at_once = Change(by, reason, now_ns, source=Source.DIRECTORY)
            return (*placed, *(policies.remove(tx, name, at_once) for name in _difference(tx, drafts).gone))

    def _note(self, problems: tuple[str, ...] | list[str]) -> None:
        if tuple(problems) != self._problems:
            for problem in problems:
                _log.warning("%s is not in force: %s", self.path, problem)
            if not problems:
                _log.info("%s is in force again", self.path)
        self._problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class _Difference:
    drafts: tuple[Draft, ...]
    gone: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.drafts or self.gone)


def _difference(tx: Tx, drafts: tuple[Draft, ...]) -> _Difference:
    held = {one.name: one for one in policies.current(tx)}
    ours = {name for name, one in held.items() if one.source is Source.DIRECTORY}
    changed = tuple(
        draft for draft in drafts if draft.policy.name not in ours or held[draft.policy.name].revision != draft.revision
    )
    return _Difference(changed, tuple(sorted(ours - {draft.policy.name for draft in drafts})))


def _see(path: Path) -> _Seen:
    """What is there. A file may be a symbolic link, as in a ConfigMap; a directory may not."""
    prints: _Prints = {}
    problems: list[str] = []

    def fail(error: OSError) -> None:
        problems.append(f"{error.filename}: it cannot be read: {error.strerror}: make it, and put policies into it")

    is_bare = True
    for place, directories, files in os.walk(path, onerror=fail):
        is_bare = is_bare and all(file.startswith(".") for file in files)
        directories[:] = sorted(one for one in directories if not one.startswith("."))
        for file in sorted(files):
            if file.startswith(".") or not file.endswith(_SUFFIXES):
                continue
            there = Path(place, file)
            name = str(there.relative_to(path))
            try:
                found = there.stat()
            except OSError as error:
                problems.append(f"{name}:1: it cannot be read: {error.strerror}")
                continue
            if not stat.S_ISREG(found.st_mode) or found.st_size > _SIZE_MAX:
                problems.append(f"{name}:1: this is no file of a policy, or has more than 8 MiB: move it elsewhere")
            prints[name] = (found.st_mtime_ns, found.st_size, found.st_ino)
    if len(prints) > _FILES_MAX:
        problems.append(
            f"{path}: there are {len(prints)} files, of which at most {_FILES_MAX} are read: move some away"
        )
    return _Seen(prints, is_bare, tuple(problems))


def _is_git_at_work(path: Path, now_ns: int) -> bool:
    """Whether files come and go in there at this moment: those that are missing were not removed by anybody."""
    for place in (path, *path.parents):
        try:
            return 0 <= now_ns - (place / ".git" / "index.lock").stat().st_mtime_ns < _GIT_LOCK_NS
        except OSError:
            continue
    return False


def look_on(directory: PolicyDirectory, database: Database, now_ns: Callable[[], int]) -> str:
    """One look that does not raise: why it could not be done, or nothing. For a task that looks every two seconds."""
    try:
        directory.look(database, now_ns())
    except ExeatError as error:
        return str(error)
    return ""
