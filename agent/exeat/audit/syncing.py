"""Tells the disk to keep what was written, in a thread: it can take a second, and the kernel's ring lasts less."""

import os
import threading


class Syncing:
    """Asked after each checkpoint."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[int, int], int] = {}  # by file: a descriptor of our own
        self._changed = threading.Condition()
        self._is_over = False
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None

    def ask(self, fd: int) -> None:
        """Soon. A file that waits already is waited for once."""
        found = os.fstat(fd)
        with self._changed:
            if (found.st_dev, found.st_ino) not in self._wanted:
                self._wanted[found.st_dev, found.st_ino] = os.dup(fd)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="verdict log to disk", daemon=True)
                self._thread.start()
            self._changed.notify()

    def take_failure(self) -> OSError | None:
        """What the disk said since the last call."""
        with self._changed:
            failure, self._failure = self._failure, None
        return failure

    def finish(self) -> None:
        """All that was asked for is done."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (fd := self._next()) is not None:
            try:
                os.fsync(fd)
            except OSError as error:
                with self._changed:
                    self._failure = error
            finally:
                os.close(fd)

    def _next(self) -> int | None:
        with self._changed:
            while not self._wanted and not self._is_over:
                self._changed.wait()
            return self._wanted.pop(next(iter(self._wanted))) if self._wanted else None
