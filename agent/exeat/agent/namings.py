"""What policy ids and rule numbers stand for: events tell numbers, also of policies that have gone."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from exeat.kernel.telling import Naming
from exeat.whole_files import write_whole

_KEPT_MAX = 4096  # of policies that have gone, of which a late event may speak


class Namings:
    """One small file for each table set, written once."""

    def __init__(self, directory: Path) -> None:
        self.known: dict[int, Naming] = {}  # read by the verdicts' thread
        self._directory = directory
        self._unwritten: set[int] = set()

    def recall(self, policy_ids: Iterable[int]) -> None:
        """Those that an agent before this one wrote down. Of what cannot be read, verdicts name no policy."""
        for policy_id in policy_ids:
            with suppress(OSError, ValueError, TypeError, RecursionError):
                policy, rules = json.loads(self._path(policy_id).read_text(encoding="utf-8"))
                self.known[policy_id] = Naming(str(policy), tuple(map(str, rules)))

    def add(self, policy_id: int, naming: Naming, in_use: set[int]) -> None:
        """One more; of those that have gone, the oldest are forgotten."""
        if self.known.get(policy_id) != naming:
            self.known[policy_id] = naming
            self._unwritten.add(policy_id)
        for oldest in [one for one in self.known if one not in in_use][: max(0, len(self.known) - _KEPT_MAX)]:
            if oldest != policy_id:
                del self.known[oldest]

    def write(self) -> None:
        """For the next agent. Raises OSError."""
        while self._unwritten:
            policy_id = self._unwritten.pop()
            naming = self.known.get(policy_id)
            if naming:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(self._path(policy_id), json.dumps([naming.policy, naming.rules]).encode())

    def drop(self, policy_id: int) -> None:
        """Its table set has gone; it stays known until others need the room."""
        self._unwritten.discard(policy_id)
        with suppress(OSError):  # it is read by nobody any more
            self._path(policy_id).unlink(missing_ok=True)

    def _path(self, policy_id: int) -> Path:
        return self._directory / f"{policy_id}.json"
