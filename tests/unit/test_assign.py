"""Which workloads a subject matches, segment by segment; finding them stays cheap with hundreds of policies."""

import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.assign import Candidate, Roster, matches
from exeat.model.policy import Policy, Subject

SEGMENTS = ["a", "b", "aa", "ab", "a.scope", "a-1.scope", ".a", "*", "a*", "*a", "a-*.scope", "?", "[ab]", "[!a]", "**"]
NAMES = ["a", "b", "aa", "ab", "c", "a.scope", "a-1.scope", "a-2.scope", ".a", "*"]
LABELS = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
PATTERNS = st.lists(st.sampled_from(SEGMENTS), max_size=3).map(lambda parts: "/" + "/".join(parts))
SUBJECTS = st.builds(
    Subject,
    cgroups=st.lists(PATTERNS, max_size=2).map(tuple),
    interfaces=st.lists(st.sampled_from(SEGMENTS), max_size=2).map(tuple),
    labels=LABELS.map(lambda labels: tuple(labels.items())),
    nodes=LABELS.map(lambda labels: tuple(labels.items())),
)
CANDIDATES = st.builds(
    Candidate,
    cgroup=st.one_of(
        st.just(""), st.lists(st.sampled_from(NAMES), max_size=3).map(lambda parts: "/" + "/".join(parts))
    ),
    interface=st.sampled_from(["", *NAMES]),
    labels=LABELS,
    node_labels=LABELS,
)


def cgroup_matches(pattern: str, cgroup: str) -> bool:
    """Whether a subject of one pattern is for a cgroup."""
    return matches(Subject(cgroups=(pattern,)), Candidate(cgroup))


@pytest.mark.parametrize(
    ("pattern", "matched", "not_matched"),
    [
        ("/agents.slice/coder-*.scope", "/agents.slice/coder-1.scope", "/agents.slice/coder-1.service"),
        ("/agents.slice/coder-*.scope", "/agents.slice/coder-.scope", "/agents.slice/coder-1.scope/inner"),
        ("/agents.slice/coder-*.scope", "/agents.slice/coder-\n.scope", "/agents.slice/deep/coder-1.scope"),
        ("/agents.slice/*", "/agents.slice/.hidden", "/agents.slice"),
        ("/*/b", "/a/b", "/a/x/b"),
        ("/a?", "/ab", "/a/"),
        ("/a[0-9]", "/a5", "/ab"),
        ("/a[!0-9]", "/ab", "/a5"),
        ("/a[", "/a[", "/a"),
        (r"/a\x2db", r"/a\x2db", "/a-b"),
        ("/A", "/A", "/a"),
        ("/", "/", "/a"),
        ("/*", "/a", "/"),
        ("/", "/", ""),
        ("/a.b", "/a.b", "/axb"),
        ("/a+", "/a+", "/aa"),
        ("/**", "/a", "/a/b"),
    ],
)
def test_a_pattern_matches_segment_by_segment(pattern: str, matched: str, not_matched: str) -> None:
    """A star never crosses a slash, and nothing but `*`, `?` and `[` is special."""
    assert cgroup_matches(pattern, matched)
    assert not cgroup_matches(pattern, not_matched)


def test_every_kind_that_is_given_must_match() -> None:
    """Each denial beside the candidate that has all."""
    subject = Subject(("/a/*", "/b/*"), (), (("agent", "coder"), ("tenant", "t1")))
    labels = {"agent": "coder", "tenant": "t1", "more": "does not matter"}
    assert matches(subject, Candidate("/a/1", labels=labels))
    assert matches(subject, Candidate("/b/1", labels=labels))
    assert not matches(subject, Candidate("/c/1", labels=labels))
    assert not matches(subject, Candidate("/a/1", labels=labels | {"tenant": "t2"}))
    assert not matches(subject, Candidate("/a/1", labels={"agent": "coder"}))
    assert not matches(subject, Candidate("", "tap-1", labels))
    both = Subject(("/a/*",), ("tap-*",))
    assert matches(both, Candidate("/a/1", "tap-1"))
    assert not matches(both, Candidate("/a/1"))
    assert not matches(both, Candidate("", "tap-1"))


def test_interfaces_are_globs_too() -> None:
    """Several are alternatives."""
    subject = Subject(interfaces=("tap-*", "veth?"))
    assert matches(subject, Candidate(interface="tap-1"))
    assert matches(subject, Candidate(interface="veth1"))
    assert not matches(subject, Candidate(interface="veth12"))
    assert not matches(subject, Candidate("/a"))
    everywhere = Subject(interfaces=("*",))
    assert matches(everywhere, Candidate(interface="eth0"))
    assert not matches(everywhere, Candidate("/a", interface=""))  # what has no interface has none that matches


def test_an_empty_subject_matches_nobody() -> None:
    """It is selected by its name; matching everybody would bind the whole host."""
    assert not matches(Subject(), Candidate("/a", "tap-1", {"agent": "coder"}))
    assert not matches(Subject(), Candidate())


@given(SUBJECTS, CANDIDATES)
def test_matching_is_what_it_says(subject: Subject, candidate: Candidate) -> None:
    """Against the words of the documentation, spelt out with the standard library's own globs."""
    by_kind = []
    if subject.cgroups:
        by_kind.append(
            any(
                pattern.count("/") == candidate.cgroup.count("/")
                and (pattern == "/") == (candidate.cgroup == "/")
                and all(map(fnmatchcase, candidate.cgroup.split("/"), pattern.split("/")))
                for pattern in subject.cgroups
            )
        )
    if subject.interfaces:
        interface = candidate.interface
        by_kind.append(interface != "" and any(fnmatchcase(interface, pattern) for pattern in subject.interfaces))
    if subject.labels:
        by_kind.append(set(subject.labels) <= set(candidate.labels.items()))
    is_here = set(subject.nodes) <= set(candidate.node_labels.items())
    assert matches(subject, candidate) == (bool(by_kind) and all(by_kind) and is_here)


# The roster


@given(st.lists(SUBJECTS, max_size=8), CANDIDATES)
def test_the_roster_finds_exactly_who_matches(subjects: list[Subject], candidate: Candidate) -> None:
    """By name, each once, however many of its patterns match."""
    policies = [Policy(f"p{number}", subject=subject) for number, subject in enumerate(subjects)]
    expected = [policy.name for policy in policies if matches(policy.subject, candidate)]
    assert [policy.name for policy in Roster(reversed(policies)).policies_of(candidate)] == expected


def test_500_policies_and_10000_cgroups_meet_within_half_a_second() -> None:
    """After a policy has changed, every cgroup is looked at again; 5 million comparisons would take seconds."""
    subjects = [Subject((f"/agents.slice/team{n}-*.scope", f"/kube/*/pod{n}")) for n in range(500)]
    policies = [Policy(f"p{n}", subject=subject) for n, subject in enumerate(subjects)]
    candidates = [Candidate(f"/agents.slice/team{n % 500}-{n}.scope") for n in range(9_000)]
    candidates += [Candidate(f"/kube/slice{n}/pod{n}") for n in range(1_000)]
    began = time.process_time()  # whatever else the machine has to do meanwhile
    roster = Roster(policies)
    found = [roster.policies_of(candidate) for candidate in candidates]
    took_s = time.process_time() - began
    assert [len(some) for some in found] == [1] * 9_500 + [0] * 500
    assert took_s < 0.5, f"{took_s:.3f} s"
