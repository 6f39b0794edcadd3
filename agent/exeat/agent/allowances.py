"""What is allowed to one workload for a time, as the rules that it stands for."""

from dataclasses import replace
from datetime import UTC, datetime

from exeat.agent.wishes import Allowance
from exeat.core.allow_flag import parse_allow, parse_allow_cidr
from exeat.core.network_text import is_like_address
from exeat.model.policy import Rule


def allowed_rule(allowance: Allowance) -> Rule:
    """The rule that an allowance stands for. Raises PolicyError."""
    rule = parse_destination(allowance.destination)
    return replace(rule, name=f"allowed-{allowance.id}", expires=_at(allowance.until_ns))


def parse_destination(text: str) -> Rule:
    """`HOST|ADDRESS|CIDR[:PORTS][/PROTO]`. Raises PolicyError."""
    host = text.partition("/")[0].rpartition(":")[0] or text.partition("/")[0]
    is_address = text.startswith("[") or text.count(":") > 1 or is_like_address(host.partition(":")[0])
    return parse_allow_cidr(text) if is_address else parse_allow(text)


def _at(wall_ns: int) -> datetime:
    return datetime.fromtimestamp(wall_ns / 1e9, UTC)
