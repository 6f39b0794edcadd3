"""Prometheus' text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from exeat.metrics.durations import Counted

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Kind(StrEnum):
    """What a number means to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Sample(NamedTuple):
    """A number, and the values of its family's labels."""

    values: tuple[str, ...]
    number: float


def head(name: str, kind: Kind, what: str) -> str:
    """What stands above a family's samples."""
    return f"# HELP {name} {_escape_help(what)}\n# TYPE {name} {kind}\n"


def lines(name: str, labels: Sequence[str], samples: Iterable[Sample]) -> Iterator[str]:
    """A line a sample."""
    for sample in samples:
        yield _line(name, zip(labels, sample.values, strict=True), sample.number)


def histogram_lines(name: str, counted: Counted) -> Iterator[str]:
    """The lines of a histogram without labels of its own."""
    for end, number in counted.buckets:
        yield _line(f"{name}_bucket", [("le", repr(float(end)))], number)
    yield _line(f"{name}_bucket", [("le", "+Inf")], counted.total)
    yield _line(f"{name}_sum", (), counted.sum_s)
    yield _line(f"{name}_count", (), counted.total)


def _line(name: str, labels: Iterable[tuple[str, str]], number: float) -> str:
    inside = ",".join(f'{label}="{_escape_value(value)}"' for label, value in labels)
    return f"{name}{{{inside}}} {number!r}\n" if inside else f"{name} {number!r}\n"


def _escape_value(value: str) -> str:
    return _escape_help(value).replace('"', r"\"")


def _escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
