"""A line of JSON back to the record that it was written from: verdicts outlive the agent that told them.

Keys that this version does not know are passed over, because fields are only ever added; so are those of the verdict
log (`seq`, `chain`). What `Record` has a default for may be missing, because an older version wrote no such field.
The one thing that a line does not say is a port without an address.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NoReturn, TypeVar

from exeat.core.problems import shown
from exeat.core.verdict_text import JUDGED_NS_MAX, protocol_number
from exeat.core.who_text import read_who
from exeat.errors import ExeatError
from exeat.model.networks import Address
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict

_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{9})Z", re.ASCII)
_REASONS = {reason.word: reason for reason in Reason}
_VERDICTS = {verdict.name: verdict for verdict in Verdict}
_PORT_MAX = 65_535
_NUMBER_MAX = 2**64 - 1  # no counter of the kernel's is wider

T = TypeVar("T")
Fields = dict[str, Any]


def read_line(text: str, where: str) -> Record:
    """The record that a line tells. `where`, such as a file's name and a line's number, begins every error."""
    try:
        return _record(_object(text))
    except ValueError as error:
        raise ExeatError(f"{where}: {error}") from error


def _object(text: str) -> Fields:
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no line of JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("this is no verdict: it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("this is no verdict: a verdict is a JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> Fields:
    """Of two values for a key, one reader would take the first and another the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shown(next(key for key in keys if keys.count(key) > 1))} stands there twice")
    return found


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _record(line: Fields) -> Record:
    address, port = _endpoint(line, "destination")
    source, source_port = _endpoint(line, "source")
    process = _wanted(line, "process", dict, "an object")
    return Record(
        time_ns=_time_ns(_text(line, "time")),
        verdict=_word(line, "verdict", _VERDICTS.get),
        reason=_word(line, "reason", _REASONS.get),
        hook=_text(line, "hook"),
        workload=_text(line, "workload"),
        policy=_text(line, "policy"),
        rule=_text_or_none(line, "rule"),
        process=Process(_number(process, "pid"), _text(process, "comm"), _number(process, "uid")),
        protocol=_word(line, "protocol", protocol_number),
        address=address,
        port=port,
        source=source,
        source_port=source_port,
        name=_text_or_none(line, "name"),
        bytes=_number(line, "bytes"),
        detail=_number(line, "detail") if line.get("detail", 0) is not None else 0,
        judged_ns=_judged_ns(line),
        count=_number(line, "count") if "count" in line else 1,
        evidence=_text_or_none(line, "evidence") if "evidence" in line else None,
        who=read_who(line.get("who")),
    )


def _wanted(line: Fields, key: str, kind: type[T], what: str) -> T:
    if key not in line:
        raise ValueError(f"there is no `{key}`, which every verdict has")
    value = line[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"`{key}` is not {what}")
    return value


def _text(line: Fields, key: str) -> str:
    return _wanted(line, key, str, "a text")


def _text_or_none(line: Fields, key: str) -> str | None:
    return None if key in line and line[key] is None else _wanted(line, key, str, "a text or null")


def _number(line: Fields, key: str, largest: int = _NUMBER_MAX) -> int:
    value = _wanted(line, key, int, "a whole number")
    if not 0 <= value <= largest:
        raise ValueError(f"`{key}` is not between 0 and {largest}")
    return value


def _word(line: Fields, key: str, find: Callable[[str], T | None]) -> T:
    word = _text(line, key)
    found = find(word)
    if found is None:
        raise ValueError(f"`{key}` is {shown(word)}, which this version of exeat does not know")
    return found


def _judged_ns(line: Fields) -> int:
    is_whole = isinstance(line.get("judged_us"), int)
    us = _number(line, "judged_us") if is_whole else _wanted(line, "judged_us", float, "a number")
    if not 0 <= us <= JUDGED_NS_MAX / 1000:
        raise ValueError("`judged_us` is no time that a judgement could take")
    return round(us * 1000)


def _endpoint(line: Fields, key: str) -> tuple[Address | None, int]:
    if key in line and line[key] is None:
        return None, 0
    endpoint = _wanted(line, key, dict, "an object or null")
    return _address(_text(endpoint, "address")), _number(endpoint, "port", _PORT_MAX)


@lru_cache(maxsize=4096)
def _address(text: str) -> Address:
    if "%" in text:  # a zone: any text, and never ours
        raise ValueError(f"{shown(text)} is no address")
    try:
        return ip_address(text)
    except ValueError as error:
        raise ValueError(f"{shown(text)} is no address") from error


def _time_ns(text: str) -> int:
    matched = _TIME.fullmatch(text)
    if not matched:
        raise ValueError(f"`time` is {shown(text)}, not a time like 2026-11-21T07:46:14.417765543Z")
    return _second_ns(matched[1]) + int(matched[2])


@lru_cache(maxsize=64)
def _second_ns(text: str) -> int:
    try:
        when = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"`time` is {shown(text)}, which no calendar has") from error
    return int(when.timestamp()) * 1_000_000_000
