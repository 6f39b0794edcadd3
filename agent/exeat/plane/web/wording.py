"""Times and counts as the pages show them. Pure: now is an argument."""

from datetime import UTC, datetime

_S = 1_000_000_000
_STEPS = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_MANY = 10  # of a unit: the next smaller one says little
_SHORT = 12  # digits of a revision that tell one from another


def span(seconds: float) -> str:
    """`3d 4h`, `5m 10s`, `47m`: the largest part, and the next one where that says much."""
    left = max(0, round(seconds))
    at = next((place for place, (length, _) in enumerate(_STEPS) if left >= length), len(_STEPS) - 1)
    many, rest = divmod(left, _STEPS[at][0])
    text = f"{many}{_STEPS[at][1]}"
    if many >= _MANY or at + 1 == len(_STEPS) or rest < _STEPS[at + 1][0]:
        return text
    length, unit = _STEPS[at + 1]
    return f"{text} {rest // length}{unit}"


def distance(at_ns: int, now_ns: int) -> str:
    """`5m 10s ago`, `in 3d 4h`, `just now`; `never` for 0."""
    if at_ns == 0:
        return "never"
    seconds = (now_ns - at_ns) / _S
    if abs(seconds) < 1:
        return "just now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def moment(at_ns: int) -> str:
    """2027-03-31 00:00:00 UTC."""
    return _moment(at_ns, "%Y-%m-%d %H:%M:%S UTC")


def machine_moment(at_ns: int) -> str:
    """2027-03-31T00:00:00Z, as programs read it."""
    return _moment(at_ns, "%Y-%m-%dT%H:%M:%SZ")


def clock(at_ns: int, now_ns: int) -> str:
    """13:37:05.123; of another day, 03-31 13:37:05."""
    if _moment(at_ns, "%Y-%m-%d") != _moment(now_ns, "%Y-%m-%d"):
        return _moment(at_ns, "%m-%d %H:%M:%S")
    return _moment(at_ns, "%H:%M:%S.") + f"{at_ns // 1_000_000 % 1000:03d}"


def count(number: int) -> str:
    """12 345: the space is one that does not break."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def several(number: int, thing: str) -> str:
    """1 node, 2 nodes."""
    return f"{count(number)} {thing}" if number == 1 else f"{count(number)} {thing}s"


def short(revision: str) -> str:
    """Enough of a revision to know it again."""
    return revision[:_SHORT]


def _moment(at_ns: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(at_ns // _S, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):  # the year 10000
        return f"@{at_ns // _S}"
