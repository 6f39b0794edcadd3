"""Writes the log: one write for each batch, however many verdicts are in it."""

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from exeat.audit.chain import LINE_MAX, Draft, Head, as_line
from exeat.audit.files import CURRENT, LogFile, aside_path, drop_older, has_only_logs, rotated_path
from exeat.audit.keys import SigningKey
from exeat.audit.reading import VERDICT, matching_lines, open_all
from exeat.audit.recovery import recover
from exeat.audit.syncing import Syncing
from exeat.core.verdict_text import time_text
from exeat.errors import ExeatError

MAX_BYTES = 64 << 20
KEEP = 8
KEY = "audit.key"
# What a power cut may take, and what may be rewritten unseen: so many lines, or what came in so many seconds.
SEAL_LINES = 20_000
SEAL_NS = 60_000_000_000
_ADDED = 110  # bytes that number and chain add to a line
_VERDICT_MAX = LINE_MAX - 1024


@dataclass(slots=True)
class _Gap:
    count: int
    from_ns: int
    to_ns: int
    why: str


class VerdictLog:
    """The log in a directory of its own. Any thread may call; nothing that the disk does is raised.

    What could not be written is counted in `unwritten`, with `why_unwritten`, and the log says so once it works again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP,
        key: Path | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.unwritten = 0
        self.why_unwritten = ""
        self._directory, self._path = directory, directory / CURRENT
        self._key_path = key or directory.parent / KEY
        self._max_bytes, self._keep, self._clock = max_bytes, keep, clock
        self._one_at_a_time = threading.Lock()
        self._syncing = Syncing()
        self._key: SigningKey | None = None
        self._owned: int | None = None  # the directory, locked
        self._file: LogFile | None = None
        self._head: Head | None = None  # None: the disk was not asked yet. Later what is known here counts
        self._oldest = 1
        self._unsealed = 0
        self._sealed_ns = 0
        self._must_seal = True
        self._is_fresh = True  # no verdict is in the file
        self._notices: list[bytes] = []
        self._gap: _Gap | None = None
        self._is_closed = False
        self.append(())

    @property
    def head(self) -> Head:
        """The last line's number and hash: noted elsewhere, it shows that a log was cut back."""
        return self._head or Head()

    @property
    def is_writing(self) -> bool:
        """Whether the last batch was written."""
        return self._gap is None and self._file is not None

    def append(self, lines: Sequence[bytes]) -> None:
        """Writes verdicts, lines of JSON without their ends. None at all: seals what is due; call it now and then."""
        good = [line for line in lines if _is_verdict(line)]
        with self._one_at_a_time:
            if len(good) != len(lines):
                self._lose(len(lines) - len(good), "they were no verdicts in JSON, which is a mistake in exeat")
            self._try(len(good), lambda: self._append(good))

    def rotate(self) -> None:
        """Begins a new file."""
        with self._one_at_a_time:
            self._try(0, self._rotate_and_begin)

    def close(self) -> None:
        """Seals what was written, and waits for the disk."""
        with self._one_at_a_time:
            if self._is_closed:
                return
            self._must_seal = bool(self._unsealed or self._notices or self._gap)
            self._try(0, lambda: self._append([]))
            if self._file:
                self._syncing.ask(self._file.fd)
                self._file.close()
            self._syncing.finish()
            if failure := self._syncing.take_failure():
                self.why_unwritten = f"the disk failed to keep the last lines: {failure.strerror}"
            if self._owned is not None:
                os.close(self._owned)
            self._file, self._owned, self._is_closed = None, None, True

    def read_since(self, wall_ns: int) -> Iterator[bytes]:
        """The verdicts since then that are written by now, oldest first, with their numbers and hashes."""
        with self._one_at_a_time:
            files = open_all(self._directory)
        return matching_lines(files, wall_ns)

    def _try(self, count: int, action: Callable[[], None]) -> None:
        try:
            if self._is_closed:
                raise ExeatError("the log is closed")
            action()
        except OSError as error:
            self._lose(count, f"{error.filename or self._path}: {error.strerror or error}")
        except ExeatError as error:
            self._lose(count, str(error))

    def _lose(self, count: int, why: str) -> None:
        now_ns = self._clock()
        self.unwritten += count
        self.why_unwritten = why
        if self._gap is None:
            self._gap = _Gap(0, now_ns, now_ns, why)
        self._gap.count += count
        self._gap.to_ns, self._gap.why = now_ns, why

    def _append(self, lines: list[bytes]) -> None:
        now_ns = self._clock()
        file = self._in_place()
        if lines and not self._is_fresh and file.size + sum(map(len, lines)) + _ADDED * len(lines) > self._max_bytes:
            self._rotate()
            file = self._in_place()
        draft = Draft(self.head)
        if file.size == 0:
            draft.add([self._continuation(now_ns)])
        draft.add([*self._notices, *self._said_of_gap(), *lines])
        self._write(file, draft, now_ns, must_seal=self._is_due(now_ns, len(draft)))
        self._notices, self._gap = [], None
        self._is_fresh = self._is_fresh and not lines

    def _write(self, file: LogFile, draft: Draft, now_ns: int, *, must_seal: bool) -> None:
        if must_seal:
            draft.add([self._checkpoint(draft.head, now_ns)])
        if not len(draft):
            return
        file.write(draft.text())
        self._head = draft.head
        self._unsealed += len(draft)
        if must_seal:
            self._unsealed, self._sealed_ns, self._must_seal = 0, now_ns, False
            self._syncing.ask(file.fd)

    def _is_due(self, now_ns: int, added: int) -> bool:
        unsealed = self._unsealed + added
        is_old = not 0 <= now_ns - self._sealed_ns < SEAL_NS  # a clock may jump back
        return self._must_seal or unsealed >= SEAL_LINES or (unsealed > 0 and is_old)

    def _rotate_and_begin(self) -> None:
        self._in_place()
        self._rotate()
        self._must_seal = True
        self._append([])

    def _rotate(self) -> None:
        file = self._in_place()
        if file.size:
            self._write(file, Draft(self.head), self._clock(), must_seal=self._unsealed > 0)
            target = rotated_path(self._directory, file.first_seq)
            if target.exists():
                target.rename(aside_path(self._directory, file.first_seq))
            self._path.rename(target)
            self._leave()
            self._oldest = drop_older(self._directory, self._keep, self.head.seq + 1) or self._oldest

    def _leave(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def _in_place(self) -> LogFile:
        """The current file; found, mended or begun if it is not as it was left."""
        if self._key is None:
            self._key = SigningKey.of(self._key_path)
        if (failure := self._syncing.take_failure()) is not None:
            self._note(f"the disk failed to keep lines before line {self.head.seq}: {failure.strerror}")
        self._own_directory()
        if self._head is None:
            self._recover()
        if self._file and not self._file.is_at(self._path):
            self._note(f"{CURRENT} was moved or removed while it was written; line {self.head.seq} was its last")
            self._leave()
        if self._file is None:
            self._begin()
        assert self._file
        if foreign := self._file.length_by_others():
            self._note(f"somebody else changed {CURRENT}: it was {foreign:+} bytes longer than what exeat wrote")
            self._file.size += foreign
        return self._file

    def _own_directory(self) -> None:
        owned = self._owned
        if owned is not None and self._directory.exists() and os.path.samestat(os.fstat(owned), self._directory.stat()):
            return
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if has_only_logs(self._directory):
            self._directory.chmod(0o700)
        owned = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(owned)
            raise ExeatError(f"{self._directory}: another exeat writes its log there; give it another one") from error
        if self._owned is not None:
            os.close(self._owned)
        self._owned = owned

    def _recover(self) -> None:
        found = recover(self._directory)
        self._file, self._oldest, self._unsealed = found.file, found.oldest, found.unsealed
        self._head, self._is_fresh = found.head, found.file is None
        for sentence in found.notices:
            self._note(sentence)
        if found.head.seq:
            self._note(f"exeat started; {found.unsealed} lines before this were not sealed", unsealed=found.unsealed)

    def _begin(self) -> None:
        if self._path.exists() or self._path.is_symlink():
            aside = aside_path(self._directory, self.head.seq)
            self._path.rename(aside)
            self._note(f"another {CURRENT} was in the way; it is now {aside.name}")
        self._file = LogFile(self._path, 0, self.head.seq + 1)
        self._is_fresh = True
        assert self._owned is not None
        self._syncing.ask(self._owned)

    def _note(self, sentence: str, **more: int | str) -> None:
        self._notices.append(as_line({"notice": sentence, "at": time_text(self._clock()), **more}))

    def _said_of_gap(self) -> list[bytes]:
        gap = self._gap
        if gap is None or not gap.count:
            return []
        begin, end = time_text(gap.from_ns), time_text(gap.to_ns)
        sentence = f"{gap.count} verdicts were not written between {begin} and {end}: {gap.why}"
        return [as_line({"notice": sentence, "unwritten": gap.count, "from": begin, "to": end})]

    def _continuation(self, now_ns: int) -> bytes:
        said = {"seq": self.head.seq, "chain": self.head.chain.hex(), "oldest": self._oldest}
        return as_line({"continues": said, "at": time_text(now_ns)})

    def _checkpoint(self, head: Head, now_ns: int) -> bytes:
        assert self._key
        said = {"seq": head.seq, "chain": head.chain.hex(), "at": time_text(now_ns), "key": self._key.id}
        return as_line({"checkpoint": said, "signature": self._key.sign(as_line(said))})


def _is_verdict(line: bytes) -> bool:
    return line.startswith(VERDICT) and line.endswith(b"}") and b"\n" not in line and len(line) < _VERDICT_MAX
