"""One more rule in a policy's text, and nothing else changed: comments, order and the author's way to write stay.

The text is edited where the list of rules ends, and read again: it must then say the old policy and exactly this rule.
Where it does not (the list is an alias, say), the policy is written anew, without its comments, and that is told.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import yaml

from exeat.core.policy_file import read_policy
from exeat.core.policy_text import policy_document
from exeat.errors import ExeatError, PolicyError
from exeat.model.policy import Policy, Rule

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: the same events, ten times slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

_PLAIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)+")  # text to every reader of YAML, without quotes
_DASH = re.compile(r" *- *")
_REMARK_MAX = 300
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Edited:
    """The new text, and whether comments and form of the old one are gone."""

    text: str
    is_rewritten: bool


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of the text: lines from 0, and columns."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class _Rules:
    """The list of rules as it stands in the text."""

    whole: _Span
    key_column: int
    is_flow: bool  # in brackets
    is_inside_flow: bool  # in a mapping in braces
    items: tuple[_Span, ...]


def append_rule(text: str, rule: Rule, remark: str) -> Edited:
    """The text with this rule at the end of its list. `remark` becomes a comment where there can be one."""
    wanted = with_rule(read_policy(text, "the policy").policy, rule)
    for edited in _edits(text, rule, remark):
        if _says(edited, wanted):
            return Edited(edited, is_rewritten=False)
    document = policy_document(wanted)
    rewritten = yaml.dump(
        document, Dumper=_Plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=_WIDTH
    )
    if not _says(rewritten, wanted):
        raise ExeatError(f"the rule {rule.name} cannot be written into the policy {wanted.name}: add it by hand")
    return Edited(rewritten, is_rewritten=True)


def with_rule(policy: Policy, rule: Rule) -> Policy:
    """The same without any text."""
    return replace(policy, rules=(*policy.rules, rule))


class _Plain(yaml.SafeDumper):
    """Without anchors: a list that stands in two rules is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _says(text: str, wanted: Policy) -> bool:
    try:
        return read_policy(text, "the policy").policy == wanted
    except PolicyError:
        return False


def _edits(text: str, rule: Rule, remark: str) -> Iterator[str]:
    """At most one."""
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    body = text.removeprefix(mark)
    rules = _rules_in(body)
    if rules is None:
        return
    newline = "\r\n" if "\r\n" in body else "\n"
    lines = [line.removesuffix("\r") for line in body.split("\n")]
    fields = policy_document(Policy("", (rule,)))["spec"]["egress"][0]
    if not rules.is_flow:
        edited = _below(lines, rules, fields, remark)
    elif rules.items or rules.is_inside_flow:
        edited = _in_brackets(lines, rules, fields)
    else:
        edited = _in_place_of_brackets(lines, rules, fields, remark) or _in_brackets(lines, rules, fields)
    if edited is not None:
        yield mark + newline.join(edited)


def _below(lines: list[str], rules: _Rules, fields: dict[str, Any], remark: str) -> list[str] | None:
    """Behind the last item of a list with dashes."""
    last = rules.items[-1]
    column = _dash_column(lines, rules)
    if column is None:
        return None
    at = last.end_line + (1 if last.end_column else 0)  # a block scalar ends where the next line begins
    while at < len(lines) and _is_comment_deeper(lines[at], column):
        at += 1
    has_gaps = any("" in map(str.strip, lines[one.end_line + 1 : next_.line]) for one, next_ in pairwise(rules.items))
    new = [*([""] if has_gaps else []), *_block(fields, remark, column)]
    if at == len(lines):
        return [*lines, *new]  # the text did not end with its last line
    return [*lines[:at], *new, *lines[at:]]


def _dash_column(lines: list[str], rules: _Rules) -> int | None:
    last, whole = rules.items[-1], rules.whole
    if dash := _DASH.fullmatch(lines[last.line][: last.column]):
        return dash[0].index("-")
    return whole.column if lines[whole.line][whole.column : whole.column + 1] == "-" else None


def _is_comment_deeper(line: str, column: int) -> bool:
    return line.lstrip(" ").startswith("#") and len(line) - len(line.lstrip(" ")) > column


def _block(fields: dict[str, Any], remark: str, column: int) -> list[str]:
    written = [f"{name}: {_scalar(value)}" for name, value in fields.items()]
    comment = [f"# {_one_line(remark)}"] if remark else []
    return [" " * column + line for line in (*comment, f"- {written[0]}", *(f"  {line}" for line in written[1:]))]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return value if value in ("tls", "tcp", "udp", "icmp", "allow") else _json(value)


def _in_place_of_brackets(lines: list[str], rules: _Rules, fields: dict[str, Any], remark: str) -> list[str] | None:
    """`egress: []` becomes a list with dashes; what stands behind it, such as a comment, stays."""
    whole = rules.whole
    line = lines[whole.line]
    if whole.line != whole.end_line or line[whole.column : whole.end_column].replace(" ", "") != "[]":
        return None
    head = line[: whole.column].rstrip() + line[whole.end_column :].rstrip()
    new = _block(fields, remark, rules.key_column)
    return [*lines[: whole.line], head, *new, *lines[whole.line + 1 :]]


def _in_brackets(lines: list[str], rules: _Rules, fields: dict[str, Any]) -> list[str] | None:
    """JSON, or YAML that is written like it. There is no place for a comment."""
    if not rules.items:
        line, column = rules.whole.end_line, rules.whole.end_column - 1
        return _put(lines, line, column, _json(fields))
    last = rules.items[-1]
    before = lines[last.line][: last.column]
    if before.strip():
        new = f", {_json(fields)}"
    elif last.line == last.end_line:
        new = f",\n{before}{_json(fields)}"
    else:
        inner = lines[last.line + 1]
        step = max(len(inner) - len(inner.lstrip()) - len(before), 1)
        dumped = json.dumps(fields, ensure_ascii=False, indent=step).replace("\n", f"\n{before}")
        new = f",\n{before}{dumped}"
    return _put(lines, last.end_line, last.end_column, new)


def _put(lines: list[str], line: int, column: int, new: str) -> list[str]:
    changed = lines[line][:column] + new + lines[line][column:]
    return [*lines[:line], *changed.split("\n"), *lines[line + 1 :]]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text[:_REMARK_MAX])
    return shown if len(text) <= _REMARK_MAX else shown + "..."


def _rules_in(text: str) -> _Rules | None:
    """Where they stand; None where it cannot be said in so few words."""
    events: list[Any] = [event for event in yaml.parse(text, Loader=_Loader) if not isinstance(event, _OUTSIDE)]
    spec = _value_of(events, 0, "spec")
    egress = None if spec is None else _value_of(events, spec, "egress")
    if spec is None or egress is None or not isinstance(events[egress], yaml.SequenceStartEvent):
        return None
    ends: list[int] = []
    begins: list[int] = []
    at = egress + 1
    while not isinstance(events[at], yaml.SequenceEndEvent):
        begins.append(at)
        at = _after(events, at)
        ends.append(at)
    return _Rules(
        whole=_span(events[egress], events[at]),
        key_column=events[egress - 1].start_mark.column,
        is_flow=bool(events[egress].flow_style),
        is_inside_flow=bool(events[spec].flow_style),
        items=tuple(_content(events[begin:end]) for begin, end in zip(begins, ends, strict=True)),
    )


_OUTSIDE = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
_BEGINS = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_ENDS = (yaml.SequenceEndEvent, yaml.MappingEndEvent)


def _value_of(events: list[Any], mapping: int, key: str) -> int | None:
    """Where the value of a mapping's key begins."""
    if not isinstance(events[mapping], yaml.MappingStartEvent):
        return None
    at = mapping + 1
    while not isinstance(events[at], yaml.MappingEndEvent):
        value = _after(events, at)
        if isinstance(events[at], yaml.ScalarEvent) and events[at].value == key:
            return value
        at = _after(events, value)
    return None


def _after(events: list[Any], at: int) -> int:
    """The event behind the node that begins here."""
    depth = 0
    while True:
        depth += isinstance(events[at], _BEGINS) - isinstance(events[at], _ENDS)
        at += 1
        if depth == 0:
            return at


def _content(events: list[Any]) -> _Span:
    """From a node's first character to its last one. The end of what is written in lines is told too late, with the
    next thing in the text: it has no length, and is passed over."""
    marks = [event for event in events if event.start_mark.index != event.end_mark.index]
    last = max(marks, key=lambda event: event.end_mark.index)
    return _span(events[0], last)


def _span(first: Any, last: Any) -> _Span:
    start, end = first.start_mark, last.end_mark
    return _Span(start.line, start.column, end.line, end.column)
