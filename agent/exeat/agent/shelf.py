"""The policies of a host, of a directory of files and of a control plane: what is in force, and why the rest is not.

A file that cannot be read, or is no policy, changes nothing: what it said before stays in force, also over a restart,
by a copy of the last good text. Files and plane add up; of one name, the plane's policy holds.
"""

import hashlib
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path

from exeat.core.compile_rules import RankedRules
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError
from exeat.model.policy import Policy
from exeat.whole_files import write_whole

SUFFIXES = (".yaml", ".yml")
FILE_MAX = 64 << 20  # a policy of 10,000 hosts has half a megabyte


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of one file, or of a policy that the plane gave."""

    file: str  # its name; empty: the plane's
    policy: Policy | None  # in force; None: nothing ever was
    revision: str = ""  # SHA-256 of the text in force
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()  # why the file as it is now is not in force
    accepted_ns: int = 0
    seen: tuple[int, ...] = ()  # the file's state when it was looked at


@dataclass(frozen=True, slots=True)
class Given:
    """What the plane gave; without one, nothing, and that is known."""

    held: tuple[Held, ...] = ()
    is_known: bool = True  # False: it has never said what it wants
    is_whole: bool = True  # False: what it said last was damaged on this host's disk


class Shelf:
    """The policies of a host, by the name of their file."""

    def __init__(self, directory: Path, copies: Path) -> None:
        self.directory = directory
        self.given = Given()
        self.complaints: tuple[str, ...] = ()
        self._copies = copies
        self._held: dict[str, Held] = {}
        self._unsaved: dict[str, str | None] = {}

    @property
    def held(self) -> tuple[Held, ...]:
        """Every file, by name."""
        return tuple(self._held[name] for name in sorted(self._held))

    @property
    def is_readable(self) -> bool:
        """Whether every file could be read, now or once: else nobody knows whom it means."""
        is_given_known = self.given.is_known and self.given.is_whole
        return is_given_known and not self.complaints and all(held.policy for held in self.held)

    @property
    def in_force(self) -> dict[str, Held]:
        """By the policy's name."""
        return {held.policy.name: held for held in (*self.held, *self.given.held) if held.policy}

    def is_overruled(self, held: Held) -> bool:
        """Whether the plane has a policy of a file's name, which holds in its place."""
        names = {one.policy.name for one in self.given.held if one.policy}
        return bool(held.file and held.policy and held.policy.name in names)

    def give(self, given: Given) -> bool:
        """The plane's policies from now on; whether what is in force has changed."""
        before = self._revisions()
        self.given = given
        return before != self._revisions()

    def read(self) -> bool:
        """Looks at every file that has changed; whether what is in force has changed."""
        try:
            files = {path.name: path for path in self.directory.iterdir() if _is_policy_file(path)}
        except OSError as error:
            self.complaints = (f"{self.directory}: {error.strerror}; its policies stay in force as they were",)
            return False
        self.complaints = ()
        before = self._revisions()
        for name in [name for name in self._held if name not in files]:
            del self._held[name]
            self._unsaved[name] = None
        for name in sorted(files):
            self._look(files[name])
        self._part_names()
        return before != self._revisions()

    def save(self) -> None:
        """Keeps copies of what was accepted. After it is enforced: a full disk must not come in between."""
        for name, text in list(self._unsaved.items()):
            copy = self._copies / name
            try:
                self._copies.mkdir(mode=0o700, parents=True, exist_ok=True)
                if text is None:
                    copy.unlink(missing_ok=True)
                elif not _holds(copy, text.encode()):
                    write_whole(copy, text.encode(), is_synced=True)
            except OSError as error:
                why = f"{copy}: {error.strerror}; after a restart, a bad {name} would have nothing to fall back to"
                self.complaints = (*self.complaints, why)
                continue
            del self._unsaved[name]

    def _revisions(self) -> dict[str, tuple[str, bool]]:
        return {name: (held.revision, bool(held.file)) for name, held in self.in_force.items()}

    def _look(self, path: Path) -> None:
        held = self._held.get(path.name)
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
            if held and held.seen == seen:
                return
            if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for who writes to it
                raise PolicyError([f"{path}: this is no file: put the policy's text into one"])
            if status.st_size > FILE_MAX:
                raise PolicyError([f"{path}: {status.st_size} bytes, of which at most {FILE_MAX} are read"])
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, PolicyError) as error:
            why = error.problems if isinstance(error, PolicyError) else [f"{path}: cannot be read: {error}"]
            self._reject(path.name, why, ())
            return
        revision = hashlib.sha256(text.encode()).hexdigest()
        if held and held.policy and held.revision == revision:
            self._held[path.name] = replace(held, seen=seen, errors=())
            return
        try:
            self._held[path.name] = _accept(path, text, revision, seen)
        except PolicyError as error:
            self._reject(path.name, error.problems, seen)
        else:
            self._unsaved[path.name] = text

    def _reject(self, name: str, why: "list[str] | tuple[str, ...]", seen: tuple[int, ...]) -> None:
        held = self._held.get(name) or self._from_copy(name) or Held(name, None)
        self._held[name] = replace(held, errors=tuple(why), seen=seen)

    def _from_copy(self, name: str) -> Held | None:
        copy = self._copies / name
        try:
            text = copy.read_text(encoding="utf-8")
            return _accept(copy, text, hashlib.sha256(text.encode()).hexdigest(), ())
        except (OSError, UnicodeDecodeError, PolicyError):  # there never was a good one, or it does not help
            return None

    def _part_names(self) -> None:
        """Of two files with one policy's name, the first by file name holds."""
        first: dict[str, str] = {}
        for held in self.held:
            if held.policy is None:
                continue
            other = first.setdefault(held.policy.name, held.file)
            if other != held.file:
                why = f"{self.directory / held.file}: {other} has a policy named {held.policy.name} already"
                self._held[held.file] = Held(held.file, None, errors=(why,))  # looked at again each time


def _accept(path: Path, text: str, revision: str, seen: tuple[int, ...]) -> Held:
    reading = read_policy(text, str(path))
    try:
        RankedRules.of(reading.policy)
    except ValueError as error:
        raise PolicyError([f"{path}: {error}"]) from error
    return Held(path.name, reading.policy, revision, reading.warnings, (), time.time_ns(), seen)


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _is_policy_file(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".")
