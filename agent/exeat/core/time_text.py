"""Text to time: RFC 3339 with a time zone, because a policy is read in more than one place."""

import re
from datetime import UTC, datetime

from exeat.core.problems import shown

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
_ZONE = r"([Zz]|[+-][0-9]{2}:[0-9]{2})"


def parse_time(text: str) -> datetime:
    """Read `2027-03-31T00:00:00Z` or the same with an offset; UTC. Raises ValueError with a sentence."""
    if re.fullmatch(_DATE, text):
        raise ValueError(f"{shown(text)} has no time of day: write `{text}T00:00:00Z`")
    if re.fullmatch(_DATE + _TIME, text):
        raise ValueError(f"{shown(text)} has no time zone: write `{text}Z` if it is UTC, or an offset like `+02:00`")
    sentence = f"{shown(text)} is no time: write one like `2027-03-31T00:00:00Z`"
    if not re.fullmatch(_DATE + _TIME + _ZONE, text):
        raise ValueError(sentence)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):  # month 13, second 60, year 1 with an offset
        raise ValueError(sentence) from None
