"""Watches the directory of policy files, and has what changes there enforced."""

import asyncio
import logging
import time
from pathlib import Path

from exeat.agent.application import Application
from exeat.agent.vitals import Story
from exeat.kernel.inotify import ATTRIBUTES, CREATED, DELETED, MOVED_FROM, MOVED_TO, WRITTEN, Inotify

_log = logging.getLogger("exeat")
_SETTLED_S = 0.02  # an editor writes a file in several steps
_CHANGES = CREATED | DELETED | MOVED_FROM | MOVED_TO | WRITTEN | ATTRIBUTES


class PolicyFiles:
    """Belongs to the control loop."""

    def __init__(self, directory: Path, application: Application, story: Story) -> None:
        self._directory = directory
        self._application = application
        self._story = story
        self._inotify = Inotify()

    def fileno(self) -> int:
        """Readable when something has changed."""
        return self._inotify.fileno()

    def watch(self) -> None:
        """The directory, or the one in which it may yet be made."""
        if self._inotify.watch(self._directory, _CHANGES):
            self._story.notes.pop("policies", None)
            return
        self._story.notes["policies"] = f"{self._directory} is not there: make it, and put policies into it"
        if self._directory.parent.is_dir():
            self._inotify.watch(self._directory.parent, CREATED | MOVED_TO)

    def changed(self) -> None:
        """Something did: it is read in a moment."""
        list(self._inotify.read())
        asyncio.get_running_loop().call_later(_SETTLED_S, self._settled)

    def reload(self) -> int:
        """Reads the files; how many workloads were switched."""
        began = time.monotonic()
        host = self._application.host
        has_changed = host.shelf.read()
        for held in host.shelf.held:
            if held.errors:
                _log.warning("%s is not in force: %s", held.file, held.errors[0])
        switched = self._application.apply(began) if has_changed else 0
        host.shelf.save()
        host.release_left()
        return switched

    def close(self) -> None:
        """Watches no more."""
        self._inotify.close()

    def _settled(self) -> None:
        list(self._inotify.read())
        self.watch()
        self.reload()
