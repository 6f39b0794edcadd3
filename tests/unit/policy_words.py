"""Short words to read policies with, so that a test of the reader says only what it is about."""

import pytest

from exeat.core.policy_file import PolicyReading, read_policy
from exeat.errors import PolicyError
from exeat.model.policy import Rule

HEAD = "apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {name: test}\nspec:\n"
RULES_HEAD = HEAD + "  egress:\n"  # lines 1 to 5: rules begin in line 6


def read(text: str) -> PolicyReading:
    """A reading of `p.yaml`."""
    return read_policy(text, "p.yaml")


def read_rules(text: str) -> tuple[Rule, ...]:
    """The rules of a policy whose sixth line is the first of this text."""
    return read(RULES_HEAD + text).policy.rules


def problems_of(text: str) -> list[str]:
    """All problems of a text, each `line: sentence`."""
    with pytest.raises(PolicyError) as refusal:
        read(text)
    assert all(problem.startswith("p.yaml:") and problem.isprintable() for problem in refusal.value.problems)
    return [problem.removeprefix("p.yaml:") for problem in refusal.value.problems]


def the_problem_of(text: str) -> str:
    """The only problem of a text."""
    (problem,) = problems_of(text)
    return problem


def the_problem_of_rules(text: str) -> str:
    """The only problem of a policy whose sixth line is the first of this text."""
    return the_problem_of(RULES_HEAD + text)
