"""The text of a policy file as YAML: one plain document, bounded; and nothing but PolicyError, whatever comes."""

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.errors import PolicyError
from unit.policy_words import HEAD, read, read_rules, the_problem_of, the_problem_of_rules


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: there is no policy in here"),
        ("# nothing\n", "1: there is no policy in here"),
        ("- a\n", "1: this is no policy: begin with"),
        ("a: [\n", "2: this is no YAML"),
        (HEAD + "\tegress: []\n", "5: this is no YAML (found character"),
        (HEAD + "  egress: []\n---\na: b\n", "6: a second document begins here"),
        (HEAD + "  egress: []\n  egress: []\n", "6: `egress` was given in line 5 already"),
        (HEAD + "  egress: !!seq []\n", "5: `tag:yaml.org,2002:seq` is a YAML tag"),
        (HEAD + "  egress: *rules\n", "5: `*rules` is a YAML alias"),
        (HEAD + "  egress: &rules [*rules]\n", "5: `*rules` is a YAML alias"),
        (HEAD + "  <<: {egress: []}\n", "5: `<<` would merge another mapping"),
        (HEAD + "  ? [a]\n  : b\n", "5: a list or mapping stands where a field's name belongs"),
        (HEAD + "  egress: []  # \u202egnihton\n", "5: U+202E cannot be seen"),
        (HEAD + "  egress: [] # hidden\r- a\n", "5: U+000D cannot be seen"),
        (HEAD + "  egress: []\x00\n", "5: U+0000 cannot be seen"),
        (HEAD + "  egress: [\ud800]\n", "5: U+D800 cannot be seen"),
        (HEAD + "  egress: []\n#" + "x" * (1 << 20), "1: the policy has 1,048,663 bytes, of which at most 1,048,576"),
        ("[" * 1000, "1: this nests deeper than 20 levels"),
    ],
)
def test_a_text_that_is_no_single_plain_document_is_refused(text: str, problem: str) -> None:
    """With the line at which it goes wrong."""
    assert the_problem_of(text).startswith(problem)


@pytest.mark.parametrize("star", ["*.a.com", "**.a.com"])
def test_an_unquoted_star_is_told_to_be_quoted(star: str) -> None:
    """To YAML it is an alias, and YAML's own message does not help."""
    problem = the_problem_of_rules(f"  - name: a\n    hosts:\n    - {star}\n")
    assert problem.startswith("8: this is no YAML")
    assert problem.endswith('quote what begins with a star: "*.example.com"')


def test_an_alias_bomb_is_refused_before_it_unfolds() -> None:
    """Nine lines would be a billion values."""
    lines = ["a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    started = time.monotonic()
    assert the_problem_of("\n".join(lines)).startswith("6: aliases unfold to more than 100,000 values")
    assert time.monotonic() - started < 1


def test_too_many_rules_are_refused() -> None:
    """At the first that is too many."""
    with pytest.raises(PolicyError, match=r"p.yaml:20006: the policy has 20,001 rules, of which at most 20,000"):
        read_rules("".join(f"  - {{name: r{n}, hosts: [a]}}\n" for n in range(20_001)))


_VOCABULARY = """
    apiVersion exeat.dev/v1 kind EgressPolicy metadata spec egress name hosts cidrs except ports protocol ech expires
    subject cgroups interfaces labels mode rollout percent a.com *.com 10.0.0.0/8 ::/0 443 1-9 tls tcp icmp allow no ~
    2027-03-31T00:00:00Z /a tap0 enforce
    dns upstreams domain servers min_grant max_grants types tunnel tunnel_limits names_per_minute label_length entropy
    203.0.113.53 10.0.0.53:5353 [::1]:53 corp.example 10m 600 4096 TXT TYPE123 block 4.5 53 853
"""
_WORDS = st.sampled_from(_VOCABULARY.split())
_VALUES = st.recursive(
    _WORDS | st.integers() | st.booleans() | st.none() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)
_YAML_LIKE = st.lists(
    _WORDS | st.sampled_from([": ", "- ", "\n", "\n  ", "{", "}", "[", "]", "&a ", "*a", '"', "'", "|"])
)


def _problems_of(text: str) -> list[str]:
    try:
        read(text)
    except PolicyError as error:
        return error.problems
    return []


def _reads_or_refuses(text: str) -> None:
    problems = _problems_of(text)
    lines = [int(problem.split(":")[1]) for problem in problems]
    assert lines == sorted(lines)
    assert "".join(problems).isprintable()


@settings(max_examples=100, deadline=None)
@given(st.text() | _YAML_LIKE.map("".join) | _VALUES.map(lambda value: str(yaml.safe_dump(value))))
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    """Nothing else is raised, whatever YAML comes."""
    _reads_or_refuses(text)


@settings(max_examples=100, deadline=None)
@given(
    _VALUES,
    st.sampled_from(["spec", "egress", "rule", "subject", "hosts", "cidrs", "ports", "dns", "upstreams", "types"]),
)
def test_any_value_in_any_place_is_a_policy_or_a_policy_error(value: object, place: str) -> None:
    """The same, past the first lines of a document that is right so far."""
    rule: dict[str, object] = {"name": "a", "hosts": ["a.com"]}
    spec: dict[str, object] = {"egress": [rule]}
    if place in ("upstreams", "types"):
        spec["dns"] = {place: value}
    else:
        (spec if place in ("egress", "subject", "dns") else rule)[place] = value
    if place == "rule":
        spec = {"egress": [value]}
    document = {"apiVersion": "exeat.dev/v1", "kind": "EgressPolicy", "metadata": {"name": "a"}, "spec": spec}
    _reads_or_refuses(str(yaml.safe_dump(document | {"spec": value} if place == "spec" else document)))


def test_a_policy_of_ten_thousand_hosts_is_read_quickly() -> None:
    """0.15 s where this was written; file to enforcement has one second."""
    hosts = "".join(f"    - host-{n}.example.com\n" for n in range(10_000))
    started = time.monotonic()
    (rule,) = read_rules("  - name: a\n    hosts:\n" + hosts)
    assert time.monotonic() - started < 3
    assert len(rule.hosts) == 10_000
