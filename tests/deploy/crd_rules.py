"""What an API server does with an object under a CustomResourceDefinition: unknown fields, values, lists, rules of CEL.

No API server can be had here. The rules are evaluated by Google's own CEL (cel-expr-python, which is its C++ library;
the API server has the Go one), the values by jsonschema. What rules may name at all is `crd_types`, what they may cost
`crd_cost`: an API server looks at both when it is given the definition.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema
from cel_expr_python import cel
from cel_expr_python.ext import ext_strings
from google.protobuf.timestamp_pb2 import Timestamp

from deploy import crd_functions
from deploy.crd_types import RESERVED, Seen, seen

RULES = "x-kubernetes-validations"
_ANYTHING = "x-kubernetes-preserve-unknown-fields"
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")


@dataclass(frozen=True)
class Rule:
    """One of a definition, and how often it may be evaluated for one object at most."""

    path: str
    rule: str
    message: str
    times: float
    of: Seen | None


class Definition:
    """One CustomResourceDefinition with one version."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.kind = document["spec"]["names"]["kind"]
        self.schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def refusals(self, thing: dict[str, Any]) -> list[str]:
        """Why an API server would not take it: a line each."""
        # All that a rule can see of the metadata.
        named = {"type": "object", "properties": {"name": {"type": "string"}}}
        schema = {**self.schema, "properties": {**self.schema["properties"], "metadata": named}}
        checker = jsonschema.FormatChecker(formats=())
        checker.checks("date-time")(_is_time)
        values = jsonschema.Draft7Validator(self.schema, format_checker=checker)
        found = [f"{_path(error.absolute_path)}: {error.message}" for error in values.iter_errors(thing)]
        found += _unknown(self.schema, thing, "")
        found += _lists(self.schema, thing, "")
        return found or _rules(schema, thing, "")

    def rules(self) -> Iterator[Rule]:
        """All of them."""
        yield from rules_of(self.schema)


def _path(parts: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or _TIME.fullmatch(value) is not None


def _below(schema: dict[str, Any], value: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """The parts of a value for which the schema says something."""
    if isinstance(value, dict):
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if inner:
                yield f".{name}", inner, part
    elif isinstance(value, list) and "items" in schema:
        yield from ((f"[{index}]", schema["items"], part) for index, part in enumerate(value))


def _unknown(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    """What an API server would prune, and `kubectl apply` refuses (fieldValidation=Strict)."""
    if schema.get(_ANYTHING) or path == ".metadata":
        return []
    known = {name for name, _, _ in _below(schema, value)}
    fields = value if isinstance(value, dict) else ()
    found = [f'{path}: unknown field "{name}"' for name in fields if f".{name}" not in known]
    for name, inner, part in _below(schema, value):
        found += _unknown(inner, part, path + name)
    return found


def _lists(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    """Entries that are there twice, where a list says that they may not be."""
    found = []
    if isinstance(value, list) and (kind := schema.get("x-kubernetes-list-type", "atomic")) != "atomic":
        keys = schema.get("x-kubernetes-list-map-keys", ())
        entries = [str([entry.get(key) for key in keys] if kind == "map" else entry) for entry in value]
        found += [f"{path}: Duplicate value: {entry}" for entry in entries if entries.count(entry) > 1][:1]
    for name, inner, part in _below(schema, value):
        found += _lists(inner, part, path + name)
    return found


def _rules(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    found = []
    for rule in schema.get(RULES, ()):
        outcome = _compiled(rule["rule"]).eval(data={"self": _as_cel(schema, value)})
        if outcome.type() != cel.Type.BOOL:
            found.append(f"{path}: the rule {rule['rule']} fails: {outcome.value()}")
        elif not outcome.value():
            found.append(f"{path}: {rule['message']}")
    for name, inner, part in _below(schema, value):
        found += _rules(inner, part, path + name)
    return found


def _as_cel(schema: dict[str, Any], value: Any) -> Any:
    """As rules see it: times are times, and reserved names are written otherwise."""
    if isinstance(value, dict):
        seen = {name[1:]: _as_cel(inner, part) for name, inner, part in _below(schema, value)}
        return {f"__{name}__" if name in RESERVED else name: part for name, part in seen.items()}
    if isinstance(value, list):
        return [_as_cel(inner, part) for _, inner, part in _below(schema, value)]
    if schema.get("format") == "date-time":
        moment = Timestamp()
        moment.FromJsonString(value)
        return moment
    return value


def rules_of(schema: dict[str, Any], path: str = "", times: float = 1) -> Iterator[Rule]:
    """All of a schema and below."""
    for rule in schema.get(RULES, ()):
        yield Rule(path, rule["rule"], rule["message"], times, seen(schema, is_root=not path))
    for name, inner in schema.get("properties", {}).items():
        yield from rules_of(inner, f"{path}.{name}", times)
    if "items" in schema:
        yield from rules_of(schema["items"], f"{path}[]", times * schema.get("maxItems", math.inf))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from rules_of(
            schema["additionalProperties"], f"{path}{{}}", times * schema.get("maxProperties", math.inf)
        )


@functools.cache
def _compiled(rule: str) -> cel.Expression:
    return _environment().compile(rule)


@functools.cache
def _environment() -> cel.Env:
    functions = crd_functions.declared(cel.Type.STRING)
    return cel.NewEnv(variables={"self": cel.Type.DYN}, functions=functions, extensions=[ext_strings.ExtStrings()])
