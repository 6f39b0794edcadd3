"""Text to a span of time in whole seconds: `90`, `30s`, `10m`, `1h`, `1d`."""

import re

from exeat.core.problems import shown

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})([smhd]?)")


def parse_duration(text: str) -> int:
    """Read a span of time; without a unit it is seconds. Raises ValueError with a sentence."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{shown(text)} is no span of time: write whole seconds, or a whole number with s, m, h or d, as in `10m`"
        )
    return int(match[1]) * _UNITS[match[2]]
