"""Which commands were begun, and what became of them: each is done once, also over restarts."""

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from exeat.errors import ExeatError
from exeat.v1 import plane_pb2 as pb
from exeat.whole_files import write_whole

_LONGER_NS = 86_400 * 10**9  # beyond its end a plane may still ask what became of a command
_MOST = 1024


@dataclass(frozen=True, slots=True)
class _Begun:
    expires_ns: int
    result: bytes  # a serialised CommandResult; empty: it has none yet


class CommandMemory:
    """One file."""

    def __init__(self, path: Path) -> None:
        self.complaint = ""
        self._path = path
        self._begun = self._read()

    def has(self, id_: str) -> bool:
        """Whether it was begun."""
        return id_ in self._begun

    def result_of(self, id_: str) -> pb.CommandResult | None:
        """What became of it, where that is known."""
        begun = self._begun.get(id_)
        return pb.CommandResult.FromString(begun.result) if begun and begun.result else None

    def begin(self, id_: str, expires_ns: int, now_ns: int) -> None:
        """On disk before it is done. Raises OSError, or ExeatError where there are too many."""
        kept = {one: begun for one, begun in self._begun.items() if begun.expires_ns + _LONGER_NS > now_ns}
        if len(kept) >= _MOST:
            self._begun = kept = {one: begun for one, begun in kept.items() if begun.expires_ns > now_ns}
        if len(kept) >= _MOST:
            raise ExeatError(f"{_MOST} commands were done within the hour, and no more can be remembered: ask later")
        self._write({**kept, id_: _Begun(expires_ns, b"")})

    def end(self, id_: str, result: pb.CommandResult) -> None:
        """What became of it. Where the disk does not take it, the next agent knows only that it was begun."""
        begun = {**self._begun, id_: _Begun(self._begun[id_].expires_ns, result.SerializeToString())}
        try:
            self._write(begun)
        except OSError as error:
            self._begun = begun
            self.complaint = f"{self._path}: {error.strerror}; a restart would not know what became of commands"

    def _write(self, begun: dict[str, _Begun]) -> None:
        fields = {
            one: {"expires_ns": entry.expires_ns, "result": base64.b64encode(entry.result).decode()}
            for one, entry in begun.items()
        }
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._path, json.dumps(fields).encode(), is_synced=True)
        self._begun = begun
        self.complaint = ""

    def _read(self) -> dict[str, _Begun]:
        try:
            fields = json.loads(self._path.read_text(encoding="utf-8"))
            read = {
                str(one): _Begun(int(entry["expires_ns"]), base64.b64decode(entry["result"], validate=True))
                for one, entry in fields.items()
            }
            for entry in read.values():
                pb.CommandResult.FromString(entry.result)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, DecodeError) as error:
            aside = self._path.with_suffix(f".unreadable-{time.time_ns()}")
            self.complaint = f"{self._path} cannot be read ({error}): a command of the last hour could be done twice"
            try:
                self._path.replace(aside)
            except OSError:  # it stays, and is written over
                return {}
            return {}
        return read
