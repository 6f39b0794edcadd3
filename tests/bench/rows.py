"""What was measured, and the one table that tells it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """What a number must not cross. `least`: it must not be below, otherwise not above."""

    value: float
    is_least: bool = False

    def holds(self, value: float) -> bool:
        """Whether a number is on the right side."""
        return value >= self.value if self.is_least else value <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.value:g}"


@dataclass(frozen=True)
class Row:
    """One number: a median with its quartiles."""

    what: str
    median: float
    low: float
    high: float
    unit: str  # "x" for a ratio
    bar: Bar | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """ok, over, or nothing where there is no bar."""
        return "" if self.bar is None else "ok" if self.bar.holds(self.median) else "over"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self) | {"verdict": self.verdict}


def row(what: str, values: Sequence[float], unit: str, bar: Bar | None = None, note: str = "") -> Row:
    """A row from what each round gave."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Row(what, median, low, high, unit, bar, note)


def p99(values: Sequence[float]) -> float:
    """What one in a hundred is above."""
    return sorted(values)[max(0, round(0.99 * len(values)) - 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def table(rows: Sequence[Row]) -> str:
    """All rows, one line each."""
    cells = [("what", "median", "quartiles", "", "bar", "", "note")]
    for one in rows:
        spread = f"{_number(one.low)} .. {_number(one.high)}"
        cells.append((one.what, _number(one.median), spread, one.unit, str(one.bar or ""), one.verdict, one.note))
    widths = [max(len(line[column]) for line in cells) for column in range(7)]
    lines = []
    for what, median, spread, *rest in cells:
        left = f"{what:{widths[0]}}  {median:>{widths[1]}}  {spread:>{widths[2]}}"
        right = [f"{text:{width}}" for text, width in zip(rest, widths[3:], strict=True)]
        lines.append("  ".join([left, *right]).rstrip())
    return "\n".join(lines)
