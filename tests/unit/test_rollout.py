"""The rollout chooses the same workloads on every host, at every start, and never takes one back."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.rollout import is_chosen

WORKLOADS = [f"/agents.slice/coder-{number}.scope" for number in range(10_000)]


@given(st.text(), st.text(), st.integers(0, 100), st.integers(0, 100))
def test_who_is_in_stays_in_as_the_share_grows(workload: str, policy: str, one: int, other: int) -> None:
    """Else a workload would fall back to monitor by a rollout that goes on."""
    few, many = sorted((one, other))
    assert not is_chosen(workload, policy, few) or is_chosen(workload, policy, many)


@given(st.text(), st.text())
def test_nobody_is_in_at_0_and_everybody_at_100(workload: str, policy: str) -> None:
    """Both ends are exact."""
    assert not is_chosen(workload, policy, 0)
    assert is_chosen(workload, policy, 100)


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99])
def test_the_share_is_as_large_as_it_says(percent: int) -> None:
    """Within four standard deviations of 10,000 throws."""
    chosen = sum(is_chosen(workload, "coding-agent", percent) for workload in WORKLOADS)
    spread = 4 * (10_000 * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(chosen - 100 * percent) <= spread


def test_policies_choose_independently() -> None:
    """A workload that is first for one policy is not first for all."""
    one, other = ({w for w in WORKLOADS if is_chosen(w, policy, 10)} for policy in ("a", "b"))
    assert 50 < len(one & other) < 150  # 100 are expected of 10,000 at 10 % of 10 %


def test_the_choice_is_the_same_in_every_version() -> None:
    """These were chosen once: another hash would move workloads at an upgrade."""
    chosen = [w for w in WORKLOADS[:60] if is_chosen(w, "coding-agent", 10)]
    assert chosen == [f"/agents.slice/coder-{number}.scope" for number in (13, 23, 27, 30, 34, 40, 42, 46, 47)]


def test_the_choice_is_the_same_in_every_process() -> None:
    """Python's own hash() is not: it is seeded anew each time."""
    program = "from exeat.core.rollout import is_chosen; print([n for n in range(99) if is_chosen(str(n), 'p', 30)])"
    command = [sys.executable, "-c", program]
    seeds = [{"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    assert len({subprocess.run(command, check=True, capture_output=True, env=seed).stdout for seed in seeds}) == 1


def test_a_cgroup_that_is_no_utf_8_is_hashed_too() -> None:
    """Linux takes any bytes but a slash for a name; Python reads others as lone surrogates."""
    assert is_chosen("/a\udcff", "p", 100)
