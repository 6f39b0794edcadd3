"""What came in with a call, read strictly: a field that nobody asked for is a mistake of the caller's, and told."""

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request

from exeat.core.duration_text import parse_duration
from exeat.core.problems import shown
from exeat.core.time_text import parse_time
from exeat.errors import Refused, StatusWord

_TEXT_MAX = 1024
_LABELS_MAX = 64
_BODY_S = 60.0
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


class Given:
    """The fields of a body or a query string."""

    def __init__(self, fields: Mapping[str, Any], what: str) -> None:
        self._fields = fields
        self._what = what
        self._asked: set[str] = set()

    def text(self, name: str, default: str | None = None, longest: int = _TEXT_MAX) -> str:
        """Text; without a default it must be there."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise _invalid(f"`{name}` of {self._what} is no text")
        if default is None and not value.strip():
            raise _invalid(f"`{name}` of {self._what} is empty")
        if len(value) > longest:
            raise _invalid(f"`{name}` of {self._what} has {len(value)} characters, of which at most {longest} are read")
        return value

    def number(self, name: str, default: int | None, first: int, last: int) -> int:
        """A whole number; in a query string, its digits."""
        value = self._value(name, default)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not first <= value <= last:
            raise _invalid(f"`{name}` of {self._what} is no whole number from {first} to {last}")
        return value

    def number_or_none(self, name: str, first: int, last: int) -> int | None:
        """None where it is not there."""
        return self.number(name, None, first, last) if self.has(name) else None

    def is_true(self, name: str) -> bool:
        """`true` or `false`; false if it is not there."""
        value = self._value(name, False)
        if isinstance(value, str) and value in ("true", "false"):
            value = value == "true"
        if not isinstance(value, bool):
            raise _invalid(f"`{name}` of {self._what} is neither true nor false")
        return value

    def texts(self, name: str) -> list[str]:
        """A list of texts; in a query string, with commas between them. Empty if it is not there."""
        value = self._value(name, [])
        if isinstance(value, str):
            value = [part for part in value.split(",") if part]
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _invalid(f"`{name}` of {self._what} is no list of texts")
        return value

    def numbers(self, name: str) -> list[int]:
        """A list of whole numbers. Empty if it is not there."""
        value = self._value(name, [])
        if not isinstance(value, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            raise _invalid(f"`{name}` of {self._what} is no list of whole numbers")
        return value

    def labels(self, name: str) -> dict[str, str]:
        """A mapping of texts to texts. Empty if it is not there."""
        value = self._value(name, {})
        is_right = isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
        if not is_right or any(not key or max(len(key), len(one)) > 253 for key, one in value.items()):
            raise _invalid(f"`{name}` of {self._what} is no mapping of labels to texts of at most 253 characters")
        if len(value) > _LABELS_MAX:
            raise _invalid(f"`{name}` of {self._what} has {len(value)} labels: at most {_LABELS_MAX} are read")
        return dict(value)

    def objects(self, name: str) -> list["Given"]:
        """A list of objects, one at least."""
        value = self._value(name, None)
        if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
            raise _invalid(f"`{name}` of {self._what} is no list of objects")
        return [Given(one, f"an entry of `{name}`") for one in value]

    def object_or_none(self, name: str) -> "Given | None":
        """None where it is not there."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise _invalid(f"`{name}` of {self._what} is no object")
        return Given(value, f"`{name}`") if self.has(name) else None

    def moment(self, name: str, now_ns: int, default: timedelta) -> int:
        """A time, or a span back from now (`7d`), in nanoseconds since 1970."""
        text = self.text(name, "")
        if not text:
            return now_ns - int(default.total_seconds()) * 10**9
        return _read(name, self._what, text, lambda: _moment_ns(text, now_ns, -1))

    def end(self, name: str, now_ns: int, default: str) -> datetime:
        """A time, or a span from now on (`90d`)."""
        text = self.text(name, default)
        ns = _read(name, self._what, text, lambda: _moment_ns(text, now_ns, 1))
        return datetime.fromtimestamp(ns // 10**9, UTC)

    def has(self, name: str) -> bool:
        """Whether it is there."""
        self._asked.add(name)
        return name in self._fields

    def refuse_unknown(self) -> None:
        """Raises Refused for what nobody asked for."""
        unknown = sorted(self._fields.keys() - self._asked)
        if unknown:
            known = f": there are {', '.join(sorted(self._asked))}" if self._asked else ""
            raise _invalid(f"{shown(unknown[0])} is no field of {self._what}{known}")

    def _value(self, name: str, default: Any) -> Any:
        if self.has(name):
            return self._fields[name]
        if default is None:
            raise _invalid(f"{self._what} has no `{name}`")
        return default


def query_of(request: Request) -> Given:
    """The query string. A field given twice is read as a list with commas."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        found[name] = f"{found[name]},{value}" if name in found else value
    return Given(found, "the query")


async def body_of(request: Request, longest: int) -> Given:
    """The JSON object of a body. Raises Refused where it is none, or too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _invalid(f"the body is {shown(kind or 'of no type')}: send JSON, as `Content-Type: application/json`")
    chunks, size = [], 0
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > longest:
                    raise Refused(StatusWord.EXHAUSTED, f"the body is longer than {longest:,} bytes: send less at once")
                chunks.append(chunk)
    except TimeoutError:
        raise _invalid(f"the body was not there after {_BODY_S:.0f} s: send it faster, or less at once") from None
    try:
        found = json.loads(b"".join(chunks))
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _invalid("the body is no JSON object")
    return Given(found, "the body")


def _moment_ns(text: str, now_ns: int, sign: int) -> int:
    if "T" in text or text.count("-") > 1:
        return round(parse_time(text).timestamp()) * 10**9
    return now_ns + sign * parse_duration(text) * 10**9


def _read(name: str, what: str, text: str, read: Any) -> int:
    try:
        moment: int = read()
        datetime.fromtimestamp(moment // 10**9, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise _invalid(f"`{name}` of {what}: {error}") from error
    return moment


def _invalid(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)
