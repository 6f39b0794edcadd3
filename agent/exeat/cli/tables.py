"""Tables for people: aligned, in colour on a terminal only, and unable to move its cursor whatever a name holds."""

import os
import sys
from collections.abc import Sequence

RED, YELLOW, BOLD = "31", "33", "1"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def plain(text: str) -> str:
    """Names as they may be shown: what is not printable is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def has_colour() -> bool:
    """Whether somebody looks at it who has not said NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str | None) -> str:
    """In this colour, if any is wanted."""
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and has_colour() else text


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str | None] = ()) -> list[str]:
    """Its lines; a head that begins with `>` stands right, as numbers do. `colours`: of each row."""
    names = [head.removeprefix(">") for head in heads]
    cells = [names, *[[plain(cell) for cell in row] for row in rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    lines = []
    for row in cells:
        aligned = [
            f"{cell:>{width}}" if head.startswith(">") else f"{cell:{width}}"
            for cell, width, head in zip(row, widths, heads, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    shades = [BOLD, *colours] if colours else [BOLD] + [None] * len(rows)
    return [coloured(line, shade) for line, shade in zip(lines, shades, strict=True)]


def size(count: float) -> str:
    """1.5 MiB."""
    step = 0
    while count >= 1024 and step < len(_UNITS) - 1:
        count, step = count / 1024, step + 1
    return f"{count:.0f} {_UNITS[step]}" if step == 0 or count >= 100 else f"{count:.1f} {_UNITS[step]}"


def several(count: int, thing: str) -> str:
    """1 workload, 2 workloads."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
