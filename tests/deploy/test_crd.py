"""The definitions of EgressPolicy and ClusterEgressPolicy: well-formed, affordable, and of the reader's opinion."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.crd_rules import RULES, Definition
from deploy.crd_table import CLUSTER, NAMESPACED, TABLE, Bad, spec_of
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError

REPOSITORY = Path(__file__).parents[2]
CRDS = REPOSITORY / "packaging/chart/exeat/crds"
# The API server's (apiextensions-apiserver, pkg/apis/apiextensions/validation): of a rule, and of all of a definition.
RULE_COST_MAX, DEFINITION_COST_MAX = 10_000_000, 100_000_000


def _definitions() -> dict[str, Definition]:
    found = [Definition(yaml.safe_load(file.read_text())) for file in sorted(CRDS.glob("*.yaml"))]
    return {one.kind: one for one in found}


DEFINITIONS = _definitions()


def _thing(kind: str, spec: dict[str, Any], name: str = "coder") -> dict[str, Any]:
    namespace = {"namespace": "ml"} if kind == "EgressPolicy" else {}
    return {"apiVersion": "exeat.dev/v1", "kind": kind, "metadata": {"name": name, **namespace}, "spec": spec}


def _read(spec: dict[str, Any]) -> None:
    """As the controller has it read: JSON is YAML."""
    document = {"apiVersion": "exeat.dev/v1", "kind": "EgressPolicy", "metadata": {"name": "coder"}, "spec": spec}
    read_policy(json.dumps(document), "object")


def _policies_of_the_repository() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((REPOSITORY / "packaging").rglob("*.yaml")):
        if "templates" in file.parts:
            continue
        for document in yaml.safe_load_all(file.read_text()):
            if (
                isinstance(document, dict)
                and document.get("apiVersion") == "exeat.dev/v1"
                and "egress" in str(document)
            ):
                yield file.name, document
    guide = (REPOSITORY / "docs/kubernetes.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and document.get("kind") in DEFINITIONS:
                yield "kubernetes.md", document


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_a_definition_is_one_by_kubernetes_own_schema(kind: str) -> None:
    """In the oldest version that we say and in the newest; a mistake would be found."""
    document = DEFINITIONS[kind].document
    for version in ("1.31", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "spec": {**document["spec"], "scope": 1}}, "1.31", strict=True)


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_a_schema_is_structural(kind: str) -> None:
    """As "Specifying a structural schema" of Kubernetes' documentation says it; others are refused as a whole."""
    assert list(_not_structural(DEFINITIONS[kind].schema, "")) == []
    assert list(_not_structural({"type": "object", "properties": {"a": {}}}, "")) == [".a has no type"]


def _not_structural(schema: dict[str, Any], path: str) -> Iterator[str]:
    if not any(
        schema.get(key) for key in ("type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")
    ):
        yield f"{path} has no type"
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{path} has properties and additionalProperties"
    for word in ("$ref", "definitions", "patternProperties", "dependencies", "uniqueItems"):
        if word in schema:
            yield f"{path} has {word}"
    for part in schema.get("anyOf", ()):
        if part not in ({"type": "integer"}, {"type": "string"}) or not schema.get("x-kubernetes-int-or-string"):
            yield f"{path} has anyOf beyond an integer or a text"
    keys = schema.get("x-kubernetes-list-map-keys", ())
    if not set(keys) <= set(schema.get("items", {}).get("required", ())):
        yield f"{path} has keys that need not be there"
    for name, inner in schema.get("properties", {}).items():
        yield from _not_structural(inner, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if name in schema:
            yield from _not_structural(schema[name], f"{path}.{name}")


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_rules_cost_what_an_api_server_allows(kind: str) -> None:
    """A rule is charged for as if every list were full and every text as long as may be.

    The server's own estimate cannot be run here. This one is of its form and rounds up: each name, call and operator
    costs one, and a tenth of the longest text in reach; what stands in a loop, as often as the lists in it are long.
    """
    costs = {
        rule.path + " " + rule.rule: rule.times * _cost(rule.rule, rule.schema) for rule in DEFINITIONS[kind].rules()
    }
    assert {rule: cost for rule, cost in costs.items() if cost > RULE_COST_MAX} == {}
    assert sum(costs.values()) < DEFINITION_COST_MAX
    assert len(costs) > 20


def _cost(rule: str, schema: dict[str, Any]) -> float:
    steps = len(re.findall(r"\w+|[<>=!]=|&&|\|\||[?!<>+]", rule))
    loops = 1.0
    for name in re.findall(r"self\.(\w+)\.(?:all|exists)\(", rule):
        loops *= schema["properties"][name].get("maxItems", math.inf)
    texts = [_longest(schema)] if "matches" in rule or "(" in rule else [0.0]
    return loops * steps * (1 + max(texts) / 10)


def _longest(schema: dict[str, Any]) -> float:
    """Of the texts that a rule reads: its own, or those in the lists that it looks through."""
    own = schema.get("maxLength", 0)
    if schema.get("type") == "string":
        return float(own or math.inf)
    lists = [part["items"].get("maxLength", 0) for part in schema.get("properties", {}).values() if "items" in part]
    return float(max((length for length in lists if length < 100), default=0))


def test_the_repositorys_policies_are_taken() -> None:
    """Examples, the demo's policy, and what the guide shows: by the definition and by the reader."""
    seen = []
    for name, document in _policies_of_the_repository():
        kind = document["kind"]
        of_cluster = document["spec"].get("subject", {}).keys() & {"cgroups", "interfaces", "nodes"}
        if "kubernetes" not in name and (of_cluster or "upstreams" in document["spec"].get("dns", {})):
            kind = "ClusterEgressPolicy"
        spec = (
            {**document["spec"]} if kind == "EgressPolicy" else {"subject": {"labels": {"a": "b"}}, **document["spec"]}
        )
        assert DEFINITIONS[kind].refusals(_thing(kind, spec, document["metadata"]["name"])) == [], name
        _read(spec)
        seen.append(f"{name} {kind}")
    assert len(seen) >= 4, seen
    assert any(one.endswith(" EgressPolicy") for one in seen)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [pytest.param(bad, kind, id=f"{bad.name.replace(' ', '-')}-{kind}") for bad in TABLE for kind in bad.kinds],
)
def test_what_the_reader_refuses_the_definition_refuses_already(bad: Bad, kind: str) -> None:
    """With the reader's words; the good one beside it is taken by both."""
    good, spec = spec_of(kind), spec_of(kind, bad.spec)
    assert DEFINITIONS[kind].refusals(_thing(kind, good)) == []
    refusals = DEFINITIONS[kind].refusals(_thing(kind, spec))
    assert any(bad.says in line for line in refusals), refusals
    _read(good)
    if bad.reader is None:
        _read(spec)
    else:
        with pytest.raises(PolicyError, match=re.escape(bad.reader)):
            _read(spec)


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_every_rule_of_a_definition_refuses_something(kind: str) -> None:
    """Of the rules, so that none is there that could never say no."""
    said = {line.split(": ", 1)[1] for bad in TABLE for line in _all_refusals(kind, bad)}
    said |= {line.split(": ", 1)[1] for name in ("a.b", "a--b") for line in _named(kind, name)}
    assert {rule.message for rule in DEFINITIONS[kind].rules()} - said == set()


def _all_refusals(kind: str, bad: Bad) -> list[str]:
    return DEFINITIONS[kind].refusals(_thing(kind, spec_of(kind, bad.spec)))


def _named(kind: str, name: str) -> list[str]:
    return DEFINITIONS[kind].refusals(_thing(kind, spec_of(kind), name))


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_names_that_no_policy_can_have_are_refused(kind: str) -> None:
    """They would be cut, or could be somebody else's."""
    assert _named(kind, "coder-1") == []
    assert "at most 63" in _named(kind, "coder.1")[0]
    assert "at most 63" in _named(kind, "c" * 64)[0]
    assert "two hyphens in a row" in _named(kind, "ml--coder")[0]


def test_an_object_of_the_cluster_says_whom_it_is_for() -> None:
    """In a namespace, all pods of it are meant; in the cluster, that would be everybody."""
    spec = spec_of("ClusterEgressPolicy")
    del spec["subject"]
    assert DEFINITIONS["EgressPolicy"].refusals(_thing("EgressPolicy", spec)) == []
    assert "'subject' is a required property" in str(DEFINITIONS["ClusterEgressPolicy"].refusals(_thing("x", spec)))


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_all_that_a_policy_may_say_an_object_may_say(kind: str) -> None:
    """No field of the language is missing: it would be pruned."""
    whole = yaml.safe_load((REPOSITORY / "packaging/example-policy.yaml").read_text())["spec"]
    known = DEFINITIONS[kind].schema["properties"]["spec"]["properties"]
    assert whole.keys() <= known.keys()
    assert {*known["dns"]["properties"]} == {"upstreams", "min_grant", "max_grants", "types", "tunnel", "tunnel_limits"}
    subject = {"cgroups", "interfaces", "images", "pods", "labels", "session", "nodes"}
    assert {*known["subject"]["properties"]} == subject
    assert all(RULES not in column for column in DEFINITIONS[kind].document["spec"]["versions"][0])


def test_what_the_controller_writes_as_status_is_taken() -> None:
    """And what it does not write is none of it."""
    condition = {
        "type": "Accepted", "status": "False", "reason": "Invalid", "observedGeneration": 3,
        "lastTransitionTime": "2026-11-22T01:00:00Z", "message": "egress[0]: the rule names no destination",
    }  # fmt: skip
    status = {
        "observedGeneration": 3, "policy": "ml--coder", "revision": "629ff26eae0a", "nodes": 4, "enforcing": 3,
        "workloads": 12, "conditions": [condition],
    }  # fmt: skip
    thing = _thing("EgressPolicy", spec_of("EgressPolicy"))
    assert DEFINITIONS["EgressPolicy"].refusals({**thing, "status": status}) == []
    twice = {**status, "conditions": [condition, condition]}
    assert "Duplicate value" in str(DEFINITIONS["EgressPolicy"].refusals({**thing, "status": twice}))
    assert "unknown field" in str(DEFINITIONS["EgressPolicy"].refusals({**thing, "status": {**status, "denials": 1}}))
