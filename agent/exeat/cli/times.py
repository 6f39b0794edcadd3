"""Times and spans as the commands take and show them."""

import argparse
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from exeat.core.duration_text import parse_duration
from exeat.core.time_text import parse_time

_SPAN_MAX = 10 * 365 * 86_400  # beyond, somebody meant something else
_STEPS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def span_argument(text: str) -> int:
    """`--for 5m`, in seconds; for argparse."""
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not 0 < seconds <= _SPAN_MAX:
        raise argparse.ArgumentTypeError(f"`{text}` is out of range: write at least 1s and at most 3650d")
    return seconds


def since_argument(text: str) -> datetime:
    """`--since 10m` or `--since 2027-03-31T00:00:00Z`; for argparse."""
    if "T" in text or text.count("-") > 1:
        try:
            return parse_time(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
    return datetime.now(UTC) - timedelta(seconds=span_argument(text))


def stamp(moment: datetime) -> Timestamp:
    """For a request."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def shown_time(message: Timestamp) -> str:
    """2027-03-31 00:00:00, in this machine's zone, as the operator's clock shows it."""
    return local_time(message.seconds)


def local_time(seconds: float) -> str:
    """The same of seconds since 1970."""
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # the year 10000
        return f"@{seconds:.0f}"


def span(seconds: float) -> str:
    """`3d 4h`, `5m 10s`: the two largest parts."""
    left, parts = max(0, round(seconds)), []
    for length, unit in _STEPS:
        if left >= length:
            parts.append(f"{left // length}{unit}")
            left %= length
    return " ".join(parts[:2]) or "0s"


def ago(message: Timestamp, now: float) -> str:
    """`5m 10s ago`."""
    return f"{span(now - _seconds(message))} ago"


def left(message: Timestamp, now: float) -> str:
    """`in 5m 10s`."""
    ahead = _seconds(message) - now
    return f"in {span(ahead)}" if ahead > 0 else "now"


def _seconds(message: Timestamp) -> float:
    return message.seconds + message.nanos / 1e9
