"""The plane's answers in words: its times as this machine's clock shows them, its workloads as NODE/NAME."""

import argparse
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from exeat.cli.times import local_time, span


def seconds_of(text: str) -> float:
    """A time of the API's, since 1970."""
    whole, _, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{rest or 0}")


def at(text: str | None) -> str:
    """2027-03-31 00:00:00; a dash for none."""
    return local_time(seconds_of(text)) if text else "-"


def ago(text: str | None, now: float) -> str:
    """`5m 10s ago`; a dash for none."""
    return f"{span(now - seconds_of(text))} ago" if text else "-"


def left(text: str | None, now: float) -> str:
    """`in 5m 10s`; a dash for none."""
    if not text:
        return "-"
    ahead = seconds_of(text) - now
    return f"in {span(ahead)}" if ahead > 0 else "ended"


def labels_text(labels: Mapping[str, str]) -> str:
    """a=b,c=d; a dash for none."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items())) or "-"


def short(revision: str | None) -> str:
    """So much of a revision as tells it from others."""
    return revision[:12] if revision else "-"


def facts_lines(facts: Mapping[str, str]) -> list[str]:
    """Names and values, aligned."""
    width = max(map(len, facts))
    return [f"{name:{width}} {value}" for name, value in facts.items()]


def workload_argument(text: str) -> tuple[str, str]:
    """`NODE/WORKLOAD`; for argparse. A workload's name may have slashes of its own."""
    node, slash, workload = text.partition("/")
    if not node or not slash or not workload:
        raise argparse.ArgumentTypeError(f"`{text}` is no workload of a node: write NODE/WORKLOAD, as in web-1/coder-7")
    return node, workload


def destination_of(denial: Mapping[str, Any]) -> str:
    """As `exeat plane approve` takes it, but for a question's remark, and for sockets that were denied themselves."""
    if not denial["target"]:
        return f"a socket of protocol {denial['protocol']}"
    return str(denial["destination"]) + (" (dns)" if denial["hook"] == "query" else "")
