"""The definitions of EgressPolicy and ClusterEgressPolicy: well-formed, affordable, and of the reader's opinion."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.crd_cost import estimate
from deploy.crd_rules import RULES, Definition, Rule, rules_of
from deploy.crd_table import CLUSTER, NAMESPACED, TABLE, Bad, spec_of
from deploy.crd_types import compiled, seen
from exeat.core.policy_file import read_policy
from exeat.errors import PolicyError

REPOSITORY = Path(__file__).parents[2]
CRDS = REPOSITORY / "packaging/chart/exeat/crds"
# The API server's (apiextensions-apiserver, pkg/apis/apiextensions/validation): of a rule, and of all of a definition.
RULE_COST_MAX, DEFINITION_COST_MAX = 10_000_000, 100_000_000
# When an object is applied (k8s.io/apiserver, pkg/apis/cel): of a rule, each time, and of all of them.
CALL_COST_MAX, OBJECT_COST_MAX = 1_000_000, 10_000_000


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
def test_rules_compile_with_the_types_that_an_api_server_gives_them(kind: str) -> None:
    """It does that once, when it is given the definition, and refuses all of it for one rule that does not."""
    rules = [*DEFINITIONS[kind].rules()]
    assert [f"{rule.path}: {told}" for rule in rules if (told := _trouble(rule))] == []
    assert len(rules) > 20


def _trouble(rule: Rule) -> str:
    try:
        compiled(rule.rule, rule.of)
    except ValueError as error:
        return str(error)
    return ""


_NO_TYPE = {"x-kubernetes-preserve-unknown-fields": True}
_MAP_OF_NO_TYPE = {"type": "object", "additionalProperties": _NO_TYPE}


@pytest.mark.parametrize(
    ("schema", "rule", "told"),
    [
        pytest.param({"type": "string"}, "has(self.x)", "", id="text"),
        pytest.param({"type": "string"}, "self.x == 1", "no matching overload", id="text-that-is-no-number"),
        pytest.param({"type": "string"}, "has(self.y)", "undefined field 'y'", id="no-field"),
        pytest.param(_NO_TYPE, "has(self.x)", "undefined field 'x'", id="no-type"),
        pytest.param({"type": "array", "items": _NO_TYPE}, "has(self.x)", "undefined field 'x'", id="list-of-no-type"),
        pytest.param(_MAP_OF_NO_TYPE, "has(self.x)", "undefined field 'x'", id="map-of-no-type"),
        pytest.param({"type": "object", **_NO_TYPE}, "has(self.x)", "", id="object-with-more"),
        pytest.param({"type": "object", **_NO_TYPE}, "has(self.x.y)", "undefined field 'y'", id="what-is-more"),
        pytest.param({"x-kubernetes-int-or-string": True}, "self.x in [1, 2]", "", id="number-or-text"),
        pytest.param({"type": "object", "additionalProperties": {"type": "string"}}, "self.x['a'] == ''", "", id="map"),
        pytest.param({"type": "string", "format": "date-time"}, "self.x < self.x", "", id="time"),
        pytest.param({"type": "string"}, "self.x", "neither yes nor no", id="no-verdict"),
    ],
)
def test_a_rule_that_names_what_rules_do_not_see_is_found(schema: dict[str, Any], rule: str, told: str) -> None:
    """By the field's own name, as the API server says it."""
    whole = {"type": "object", "properties": {"x": schema}, RULES: [{"rule": rule, "message": "no"}]}
    trouble = _trouble(next(rules_of({"type": "object", "properties": {"spec": whole}})))
    assert told in trouble
    assert bool(told) == bool(trouble)


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_rules_cost_what_an_api_server_allows(kind: str) -> None:
    """Each, as if every list were full and every text as long as may be; and all of them together."""
    costs = {
        f"{rule.path} {rule.rule}": rule.times * estimate(rule.rule, rule.of)
        for rule in DEFINITIONS[kind].rules()
        if rule.of is not None
    }
    assert {rule: cost for rule, cost in costs.items() if cost > RULE_COST_MAX} == {}
    assert sum(costs.values()) < DEFINITION_COST_MAX
    assert len(costs) > 20


@pytest.mark.parametrize("kind", [*NAMESPACED, *CLUSTER])
def test_the_greatest_object_can_be_looked_at(kind: str) -> None:
    """When it is applied, the server counts what the rules do take: here, characters of a byte each, as names have."""
    costs = [
        (rule.times, estimate(rule.rule, rule.of, width=1))
        for rule in DEFINITIONS[kind].rules()
        # A name of 3 MiB is no name: the server has refused it by then.
        if rule.of is not None and rule.path
    ]
    assert max(cost for _, cost in costs) < CALL_COST_MAX
    assert sum(times * cost for times, cost in costs) < OBJECT_COST_MAX


_TEXTS = {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 25}}


@pytest.mark.parametrize(
    ("schema", "rule", "cost"),
    [
        # 25 characters are up to 100 bytes, ten of which are a step.
        pytest.param({"type": "string", "maxLength": 25}, "self.contains('/')", 1 + 10, id="text"),
        pytest.param({"type": "string", "maxLength": 25}, "self.matches('12345678')", 1 + 11 * 2, id="pattern"),
        pytest.param({"type": "string", "maxLength": 25}, "self == '*' || self != '**'", 2 + 2, id="equality"),
        pytest.param(
            {"type": "string", "maxLength": 25},
            "self.substring(self.indexOf('.') + 1).contains('.')",
            # The text's name, twice; a walk for the index, one for the part, one for what is in it; a step for the sum.
            2 + 10 + 10 + 10 + 1,
            id="part-of-a-text",
        ),
        # Ten times: the loop's own two steps, and three for what was found, the name, the equality. Then the outcome.
        pytest.param(_TEXTS, "self.all(x, x == 'a')", 1 + 10 * (2 + 3) + 1, id="list"),
        pytest.param({"type": "string", "maxLength": 25}, "self in ['a', 'b']", 1 + 10 + 2, id="one-of-two"),
    ],
)
def test_costs_are_those_of_the_servers_estimate(schema: dict[str, Any], rule: str, cost: int) -> None:
    """Worked out by hand after checker/cost.go."""
    of = seen(schema)
    assert of is not None
    assert estimate(rule, of) == cost


@pytest.mark.parametrize(
    ("schema", "rule"),
    [
        pytest.param({"type": "array", "items": {"type": "string"}}, "self.all(x, x == 'a')", id="list-of-any-length"),
        # 1.31 knows no size for a network, and takes none for any size.
        pytest.param({"type": "string", "maxLength": 43}, "cidr(self) == cidr(self).masked()", id="two-networks"),
    ],
)
def test_what_has_no_bound_is_too_dear(schema: dict[str, Any], rule: str) -> None:
    """Beyond every limit."""
    of = seen(schema)
    assert of is not None
    assert estimate(rule, of) > DEFINITION_COST_MAX


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
