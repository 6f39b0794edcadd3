"""What a policy's subject says, and the policy's text and differences that say it again."""

import json

import pytest

from exeat.core.assign import Candidate, Roster, matches
from exeat.core.diff_settings import differing_settings
from exeat.core.policy_file import read_policy
from exeat.core.policy_text import policy_document
from exeat.errors import PolicyError
from exeat.model.identity import Pod, Session
from exeat.model.policy import Pods, Policy, Subject

POD = Pod("ml", "coder-1", "uid-1", (("app", "coder"), ("tier", "gold")))


def policy_with(subject: str) -> str:
    """A policy with this subject in its fifth line."""
    return (
        "apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {name: p}\n"
        f"spec:\n  subject: {subject}\n  egress: []\n"
    )


def subject_of(text: str) -> Subject:
    """What is read of it."""
    return read_policy(policy_with(text), "p.yaml").policy.subject


def test_images_pods_and_sessions_are_read() -> None:
    """A label of Kubernetes may have a prefix."""
    subject = subject_of(
        "{images: [python, 'ghcr.io/acme/*'], pods: {namespace: ml, matchLabels: {app.kubernetes.io/name: coder}}, "
        "session: {user: alice, tool: shell}}"
    )
    assert subject.images == ("python", "ghcr.io/acme/*")
    assert subject.pods == Pods("ml", (("app.kubernetes.io/name", "coder"),))
    assert subject.session == (("user", "alice"), ("tool", "shell"))
    assert subject.is_for_containers
    assert subject.may_be_for_containers
    assert not subject_of("{session: {user: alice}}").may_be_for_containers
    assert not subject_of("{labels: {a: b}}").is_for_containers
    assert subject_of("{labels: {a: b}}").may_be_for_containers


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ("{pods: {}}", "`pods` could mean all pods or none"),
        ("{pods: {matchLabels: {}}}", "`matchLabels` is empty"),
        ("{labels: {}}", "`labels` is empty"),
        ("{session: {}}", "`session` is empty"),
        ("{session: {name: x}}", "name"),
        ("{images: ['a//b']}", "is no image"),
        ("{images: []}", "images"),
        ("{pods: {namespaces: [ml]}}", "namespaces"),
        ("{nodes: {role: sandbox}}", "could mean nobody or everybody of these nodes"),
    ],
)
def test_a_subject_that_could_be_misread_is_refused_with_its_line(subject: str, sentence: str) -> None:
    """All of nothing is everything."""
    with pytest.raises(PolicyError, match="p.yaml:5: ") as refused:
        subject_of(subject)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("subject", "is_match"),
    [
        (Subject(pods=Pods("ml")), True),
        (Subject(pods=Pods("prod")), False),
        (Subject(pods=Pods("", (("app", "coder"),))), True),
        (Subject(pods=Pods("ml", (("app", "coder"), ("tier", "gold")))), True),
        (Subject(pods=Pods("ml", (("app", "coder"), ("tier", "silver")))), False),
        (Subject(images=("python",)), True),
        (Subject(images=("node", "python")), True),
        (Subject(images=("node",)), False),
        (Subject(images=("python",), pods=Pods("prod")), False),
        (Subject(session=(("user", "alice"),)), True),
        (Subject(session=(("user", "alice"), ("tool", "browser"))), False),
        (Subject(pods=Pods("ml"), nodes=(("role", "web"),)), False),
    ],
)
def test_every_kind_that_is_given_must_match(subject: Subject, is_match: bool) -> None:
    """The roster finds the same."""
    candidate = Candidate(
        cgroup="/x",
        images=("docker.io/library/python:3.12",),
        pod=POD,
        session=Session("s1", user="alice", tool="shell"),
        node_labels={"role": "sandbox"},
    )
    assert matches(subject, candidate) is is_match
    policy = Policy("p", subject=subject)
    assert Roster([policy]).policies_of(candidate) == ((policy,) if is_match else ())


def test_who_is_unknown_matches_no_subject_that_asks_who() -> None:
    """Not even a pattern that covers all."""
    nobody = Candidate(cgroup="/x")
    for subject in (Subject(pods=Pods("ml")), Subject(images=("*",)), Subject(session=(("user", ""),))):
        assert not matches(subject, nobody)
        assert Roster([Policy("p", subject=subject)]).policies_of(nobody) == ()


def test_a_policy_written_as_a_document_is_read_back_as_the_same() -> None:
    """JSON is YAML."""
    text = policy_with("{images: [python], pods: {namespace: ml, matchLabels: {app: coder}}, session: {run: '7'}}")
    policy = read_policy(text, "p.yaml").policy
    assert read_policy(json.dumps(policy_document(policy)), "again.json").policy == policy


def test_a_difference_in_whom_it_is_for_is_told() -> None:
    """Of lists what came and went."""
    old = Policy("p", subject=Subject(pods=Pods("ml")))
    new = Policy("p", subject=Subject(pods=Pods("ml", (("app", "coder"),)), images=("python",)))
    sentences = [sentence for sentence, _ in differing_settings(old, new)]
    assert "is for images python from now on" in sentences
    assert "is for pods app=coder in namespace ml from now on" in sentences
    assert "is for pods all in namespace ml no longer" in sentences
