"""The `limits` section: what each text means, and at which line each misreadable field is refused."""

import pytest

from exeat.core.compile import compile_policy
from exeat.core.policy_limits import parse_size
from exeat.kernel.abi import Limited
from exeat.kernel.usage import limit_fields
from exeat.model.policy import Limit, Limits, OnUndeclared, Policy, Then
from unit.policy_words import HEAD, problems_of, read, the_problem_of

TAIL = "\n  egress: []\n"  # limits begin in line 5


def limits_of(text: str) -> Limits:
    """The limits of a policy whose fifth line is the first of this text."""
    return read(HEAD + text + TAIL).policy.limits


def test_every_field_is_read() -> None:
    """As docs/policy.md writes them."""
    text = """\
  limits:
    bytes: {max: 500M, per: 1h, then: deny}
    connections: {max: 1000, per: 1m, then: report}
    destinations: {max: 50, per: 24h, then: quarantine}
  onUndeclared: quarantine"""
    policy = read(HEAD + text + TAIL).policy
    assert policy.limits == Limits(
        bytes=Limit(500_000_000, 3600, Then.DENY),
        connections=Limit(1000, 60, Then.REPORT),
        destinations=Limit(50, 86_400, Then.QUARANTINE),
    )
    assert policy.on_undeclared is OnUndeclared.QUARANTINE


def test_what_is_left_out_is_not_limited() -> None:
    """And a limit without `then` denies."""
    assert read(HEAD + TAIL[1:]).policy == Policy("test")
    assert limits_of("  limits: {connections: {max: 3, per: 90}}") == Limits(connections=Limit(3, 90, Then.DENY))


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1500", 1500), ("2K", 2000), ("2Ki", 2048), ("3M", 3 * 10**6), ("3Mi", 3 * 2**20), ("4G", 4 * 10**9),
     ("4Gi", 2**32), ("999999999Gi", 999_999_999 * 2**30)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    """Powers of 1000 or of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0K", "-1", "1.5G", "1T", "1k", "1KB", "1 K", "01", "1_000", "1000000000"])
def test_no_sizes(text: str) -> None:
    """Each with a sentence."""
    with pytest.raises(ValueError, match=r"bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{byte: {max: 1, per: 1h}}", "5: `byte` is no field of `limits`; did you mean `bytes`?"),
        ("{bytes: {max: 1K, pre: 1h}}", "5: `pre` is no field of `bytes`; did you mean `per`?"),
        ("{bytes: {max: 1K, per: 1h, then: quarantin}}", "5: `then` is `quarantin`; did you mean `quarantine`?"),
        ("{bytes: {max: 1K, per: 1h, then: drop}}", "5: `then` is `drop`; write one of report, deny, quarantine"),
        ("{bytes: {max: 1K, per: 0}}", "5: `per` is `0`: write a span from `1s` to `24h`"),
        ("{bytes: {max: 1K, per: 2d}}", "5: `per` is `2d`: write a span from `1s` to `24h`"),
        ("{connections: {max: 0, per: 1h}}", "5: `max` is `0`: write a number from 1 to 1000000000"),
        ("{connections: {max: 1K, per: 1h}}",
         "5: `max` is `1K`: write a number from 1 to 1000000000 in decimal digits"),
        ("{destinations: {max: 65537, per: 1h}}", "5: `max` is `65537`: write a number from 1 to 65536"),
        ("{connections: {per: 1h}}",
         "5: `connections` has no `max`: write how much, as in `connections: {max: 50, per: 1h, then: deny}`"),
        ("{bytes: {max: 1K}}",
         "5: `bytes` has no `per`: write in what time, as in `bytes: {max: 500M, per: 1h, then: deny}`"),
        ("{bytes: 500M}", "5: `bytes` is `500M`: write fields, one `name: value` a line"),
        ("{}", "5: `limits` limits nothing: write bytes, connections, destinations, or leave it out"),
    ],
)  # fmt: skip
def test_what_could_be_misread_is_refused(text: str, problem: str) -> None:
    """With its line and what to write."""
    assert the_problem_of(f"{HEAD}  limits: {text}{TAIL}") == problem


def test_all_problems_are_told_at_once() -> None:
    """Each at its own line."""
    text = "  limits:\n    bytes:\n      max: 5m\n      per: yes\n  onUndeclared: quarantin"
    assert [problem.partition(":")[0] for problem in problems_of(HEAD + text + TAIL)] == ["7", "8", "9"]


def test_a_table_set_carries_them_to_the_kernel() -> None:
    """Bits say which limits there are and which deny or quarantine; what denies not is reported."""
    limits = Limits(Limit(7, 2, Then.REPORT), Limit(8, 3, Then.DENY), Limit(9, 4, Then.QUARANTINE))
    table_set = compile_policy(Policy("p", limits=limits, on_undeclared=OnUndeclared.QUARANTINE))
    assert table_set.limits == limits
    assert table_set.quarantines_undeclared
    fields = limit_fields(limits)
    assert [(entry.max, entry.per_ns) for entry in fields["limits"]] == [(7, 2 * 10**9), (8, 3 * 10**9), (9, 4 * 10**9)]
    assert (fields["limited"], fields["denies"], fields["quarantines"]) == (0b111, 0b110, 0b100)
    only = limit_fields(Limits(destinations=Limit(1, 1)))
    assert (only["limited"], only["denies"], only["quarantines"]) == (1 << Limited.DESTINATIONS,) * 2 + (0,)
    assert limit_fields(Limits())["limited"] == 0
