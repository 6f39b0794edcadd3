"""What an object of the cluster means: its policy's name, its document, and what a tenant may not write into it."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest

from exeat.core.policy_file import read_policy
from exeat.model.policy import Pods, Policy
from exeat.plane.cluster.document import Unfit, document_of, read_document
from exeat.plane.cluster.json_text import parse
from exeat.plane.cluster.objects import Garbled, Key, Kind, Outcome, Reason, kind_of, read_item

RULES = {"egress": [{"name": "api", "hosts": ["api.example.com"]}]}
TAP = {"interfaces": ["tap-*"]}


def said(namespace: str, name: str, spec: Any, **metadata: Any) -> dict[str, Any]:
    """An object as the API server says it."""
    where = {"namespace": namespace} if namespace else {}
    known = {"name": name, "uid": "u", "resourceVersion": "7", "generation": 3, **where, **metadata}
    return {"metadata": known, "spec": spec}


def policy(namespace: str, name: str, spec: Any, **metadata: Any) -> Policy:
    """What is made of an object. Raises Unfit."""
    kind = Kind.NAMESPACED if namespace else Kind.CLUSTER
    item = read_item(kind, said(namespace, name, spec, **metadata))
    return read_document(item.key, document_of(item)).policy


def refusal(namespace: str, name: str, spec: Any, **metadata: Any) -> Outcome:
    """Why nothing is made of it."""
    with pytest.raises(Unfit) as caught:
        policy(namespace, name, spec, **metadata)
    return caught.value.outcome


def test_a_namespaced_object_is_for_the_pods_of_its_namespace() -> None:
    """Of all of them, or those that its subject leaves."""
    assert policy("ml", "coder", RULES).subject.pods == Pods("ml")
    narrow = {"pods": {"matchLabels": {"app": "coder"}}, "images": ["ghcr.io/acme/*"], "labels": {"tier": "agent"}}
    found = policy("ml", "coder", {**RULES, "subject": narrow}).subject
    assert found.pods == Pods("ml", (("app", "coder"),))
    assert (found.images, found.labels) == (("ghcr.io/acme/*",), (("tier", "agent"),))
    assert policy("ml", "coder", {**RULES, "subject": {"pods": {"namespace": "ml"}}}).subject.pods == Pods("ml")
    assert policy("ml", "coder", {**RULES, "subject": {"session": {"tool": "shell"}}}).subject.pods == Pods("ml")


@pytest.mark.parametrize(
    ("spec", "reason", "sentence"),
    [
        ({"subject": {"cgroups": ["/"]}}, Reason.SUBJECT, "spec.subject.cgroups: an EgressPolicy is for pods of its"),
        ({"subject": {"cgroups": []}}, Reason.SUBJECT, "spec.subject.cgroups"),
        ({"subject": {"cgroups": None}}, Reason.SUBJECT, "spec.subject.cgroups"),
        ({"subject": TAP}, Reason.SUBJECT, "spec.subject.interfaces"),
        ({"subject": {"pods": {"matchLabels": {"a": "b"}}, "nodes": {"role": "db"}}}, Reason.SUBJECT, "subject.nodes"),
        ({"subject": {"pods": {"namespace": "kube-system"}}}, Reason.SUBJECT, "pods.namespace: `kube-system` is not"),
        ({"subject": {"pods": {"namespace": ""}}}, Reason.SUBJECT, "spec.subject.pods.namespace"),
        ({"subject": {"pods": {"namespace": None}}}, Reason.SUBJECT, "spec.subject.pods.namespace"),
        ({"subject": {"pods": {"namespace": ["ml"]}}}, Reason.SUBJECT, "spec.subject.pods.namespace"),
        ({"subject": {"pods": {}}}, Reason.INVALID, "spec.subject.pods: `pods` could mean all pods or none"),
        ({"subject": {"pods": []}}, Reason.INVALID, "spec.subject.pods"),
        ({"subject": {"pods": "ml"}}, Reason.INVALID, "spec.subject.pods"),
        ({"subject": {}}, Reason.INVALID, "spec.subject: it could mean no pod or every one"),
        ({"subject": None}, Reason.INVALID, "spec.subject: `subject` is empty"),
        ({"subject": []}, Reason.INVALID, "spec.subject"),
        ({"subject": "*"}, Reason.INVALID, "spec.subject"),
        ({"Subject": {"cgroups": ["/"]}}, Reason.INVALID, "`Subject` is no field of `spec`"),
        ({"subject\ncgroups": ["/"]}, Reason.INVALID, "is no field of `spec`"),
        ({"<<": {"subject": TAP}}, Reason.INVALID, "spec"),
        ({"dns": {"upstreams": ["127.0.0.1:6379"]}}, Reason.SUBJECT, "spec.dns.upstreams: it is the node that asks"),
        ({"reason": "x\ny: z"}, Reason.INVALID, "spec.reason: `reason` has characters that cannot be seen"),
        ({"reason": "\u202etxt"}, Reason.INVALID, "spec.reason: U+202E cannot be seen"),
        ({"reason": "\ud800"}, Reason.INVALID, "it has a value that no policy can have"),
        ({"mode": True}, Reason.INVALID, "spec.mode"),
        ({"mode": {"&a": "*a"}}, Reason.INVALID, "spec.mode"),
        ({"owner": "!!python/object:os.system x", "egress": "*"}, Reason.INVALID, "spec.egress: `egress` is `*`"),
        ({"x" * 2000: 1}, Reason.INVALID, "spec"),
    ],
)
def test_what_a_tenant_may_not_write_is_refused_with_its_field(
    spec: dict[str, Any], reason: Reason, sentence: str
) -> None:
    """The host's workloads, others' namespaces, what could be read in two ways; the same rules without it pass."""
    found = refusal("ml", "coder", {**RULES, **spec})
    assert (found.reason, sentence in found.message) == (reason, True), found
    assert policy("ml", "coder", RULES).name == "ml--coder"


def test_what_belongs_to_the_host_is_for_cluster_scoped_objects() -> None:
    """Whoever may write those may select everything; nobody and everybody at once is refused there too."""
    for subject in ({"cgroups": ["/agents.slice"]}, TAP, {"pods": {"namespace": "ml"}}, {"images": ["acme/*"]}):
        assert policy("", "base", {**RULES, "subject": {**subject, "nodes": {"a": "b"}}}).subject.names_workloads
    assert policy("", "base", {**RULES, "subject": TAP, "dns": {"upstreams": ["203.0.113.53"]}}).dns.upstreams
    assert "spec.subject: it is required here" in refusal("", "base", RULES).message
    assert refusal("", "base", {**RULES, "subject": {"nodes": {"a": "b"}}}).reason is Reason.INVALID


def test_sentences_name_fields_and_not_lines() -> None:
    """Nobody has seen the lines; and a sentence about two places names both."""
    twice = [{"name": "a", "hosts": ["x.example"]}, {"name": "a", "hosts": ["y.example", "*.com"], "ports": [0]}]
    message = refusal("ml", "coder", {"egress": twice}).message
    assert "spec.egress[1].name: a rule at spec.egress[0].name is named `a` too" in message
    assert "spec.egress[1].hosts[1]: `*.com` covers" in message
    assert "spec.egress[1].ports[0]: a port is `0`" in message
    assert "spec: the policy has no `spec`" in refusal("ml", "coder", None).message
    assert "spec: the policy has no `spec`" not in refusal("ml", "coder", []).message
    assert len(refusal("ml", "coder", {"egress": [{"name": f"{at}"} for at in range(5000)]}).message) == 1024


def test_labels_of_the_object_become_the_documents() -> None:
    """But those that no policy can have."""
    labels = {"app.kubernetes.io/name": "coder", "empty": "", "team": "ml"}
    found = policy("ml", "coder", RULES, labels=labels)
    assert dict(found.labels) == {"app.kubernetes.io/name": "coder", "team": "ml"}


def test_the_document_is_the_spec_and_reads_as_a_file_does() -> None:
    """Numbers stay numbers, texts that look like something else stay texts."""
    spec = {**RULES, "owner": "0443", "reason": "no", "dns": {"tunnel_limits": {"entropy": 4.5}}}
    spec["egress"] = [{"name": "on", "protocol": "tcp", "cidrs": ["203.0.113.0/24"], "ports": [443, "8000-8010"]}]
    item = read_item(Kind.NAMESPACED, said("ml", "coder", spec))
    text = document_of(item)
    assert json.loads(text)["spec"] == {**spec, "subject": {"pods": {"namespace": "ml"}}}
    found = read_policy(text, "object").policy
    assert (found.owner, found.reason, found.rules[0].name) == ("0443", "no", "on")
    assert found.dns.tunnel_limits.entropy == 4.5


def test_names_of_policies_are_valid_and_nobody_elses() -> None:
    """Whatever hyphens two namespaces and their objects have; kinds are told apart by the name alone."""
    spaces = ("a", "a--b", "a---b", "b", "a-b", "x" * 63, "x" * 62 + "y", "x" * 39 + "--" + "z" * 10)
    names = ("a", "b", "b-c", "a-b", "c", "y" * 63, "y" * 62 + "z", "0" * 20, "z" * 24)
    keys = [Key(Kind.NAMESPACED, space, name) for space in spaces for name in names]
    keys += [Key(Kind.CLUSTER, "", name) for name in (*names, "a-b-c")]
    for key in keys:
        kind = Kind.NAMESPACED if key.namespace else Kind.CLUSTER
        read = policy(key.namespace, key.name, RULES if key.namespace else {**RULES, "subject": TAP})
        assert read.name == key.policy
        assert kind_of(key.policy) is kind
    assert not [(one, other) for one, other in combinations(keys, 2) if one.policy == other.policy]


@pytest.mark.parametrize("name", ["a--b", "a.b", "x" * 64, "a.b--c", "ml--coder"])
def test_a_name_that_could_be_anothers_is_refused(name: str) -> None:
    """An older definition, or none, may let it in; the same in the other kind."""
    for namespace in ("ml", ""):
        found = refusal(namespace, name, RULES)
        assert found.reason is Reason.INVALID
        assert "metadata.name: " in found.message


def test_what_is_no_object_is_no_word_of_an_api_server() -> None:
    """Nothing of the list counts in which it stands."""
    good = said("ml", "coder", RULES)
    assert read_item(Kind.NAMESPACED, good).key == Key(Kind.NAMESPACED, "ml", "coder")
    bad: list[Any] = [None, [], "x", {}, {"metadata": []}, {**good, "kind": "Pod"}, {**good, "apiVersion": "v1"}]
    for name, value in (
        ("name", "../x"), ("name", ""), ("name", None), ("namespace", ""), ("namespace", "a/b"), ("namespace", 1),
        ("uid", None), ("resourceVersion", None), ("resourceVersion", ""), ("resourceVersion", 7),
    ):  # fmt: skip
        bad.append({**good, "metadata": {**good["metadata"], name: value}})
    for one in bad:
        with pytest.raises(Garbled):
            read_item(Kind.NAMESPACED, one)
    with pytest.raises(Garbled):
        read_item(Kind.CLUSTER, good)


def test_an_object_that_nests_without_end_spoils_itself_alone() -> None:
    """Where the definition keeps unknown fields, anybody could write one; the others of its page are read."""
    deep = {"egress": json.loads("[" * 900 + "]" * 900)}
    assert "it nests deeper than 20 levels" in refusal("ml", "coder", deep).message
    page = b'{"items": [{"a": "[[[\\"]"}, %s, {"b": 1}]}' % (b'{"c":[' * 5000 + b'"{"' + b"]}" * 5000)
    items = parse(page)["items"]
    assert (items[0], items[2]) == ({"a": '[[["]'}, {"b": 1})
    for bad in (b"", b"{", b"[" * 100_000, b"\xff", b"<html>"):
        with pytest.raises(Garbled):
            parse(bad)


def test_a_document_that_is_too_large_is_refused_before_it_is_read() -> None:
    """With its size; one that is nearly as large passes."""
    hosts = [f"host-{at:05}.example.com" for at in range(30_000)]
    assert len(policy("ml", "coder", {"egress": [{"name": "a", "hosts": hosts[:20_000]}]}).rules[0].hosts) == 20_000
    found = refusal("ml", "coder", {"egress": [{"name": "a", "hosts": [f"{one}.example.org" for one in hosts]}]})
    assert found.reason is Reason.TOO_LARGE
    assert "bytes, of which at most 1,048,576 are read" in found.message
