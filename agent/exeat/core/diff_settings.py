"""What differs between two policies beside their rules' reach: mode, subject, rollout, names and limits, in words."""

from collections.abc import Iterable, Iterator
from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import Any

from exeat.core.diff_words import listed_text, time_text
from exeat.core.policy_text import limit_text, pods_text
from exeat.core.query_types import query_type_word
from exeat.model.policy import DnsSettings, Limits, Mode, Pods, Policy, Upstreams

_MODES = {
    Mode.ENFORCE: "now enforces: what no rule names is denied",
    Mode.MONITOR: "now monitors instead of enforcing: nothing is denied any more, only reported",
    Mode.OPEN: "now is open: nothing is denied any more, and what no rule names is recorded",
    Mode.QUARANTINE: "now is in quarantine: everything is denied, whatever the rules say",
}
_COMPARED_BY_REACH = (
    "rules",
    "name",
    "mode",
    "owner",
    "reason",
    "expires",
    "labels",
    "subject",
    "rollout_percent",
    "limits",
    "dns",
)

Difference = tuple[str, bool]  # a sentence, and whether a workload may feel it


def differing_settings(old: Policy, new: Policy) -> Iterator[Difference]:
    """Each difference; what a change does to the rules is not among them."""
    if old.mode is not new.mode:
        yield _mode(old.mode, new.mode), True
    yield from _subject(old, new)
    if old.rollout_percent != new.rollout_percent:
        yield (
            f"rolls out to {new.rollout_percent} % of its workloads, was {old.rollout_percent} %: "
            "the others are only monitored",
            True,
        )
    for sentence in _dns(old.dns, new.dns):
        yield sentence, True
    for sentence in _limits(old.limits, new.limits):
        yield sentence, True
    for field in fields(Policy):
        if field.name not in _COMPARED_BY_REACH:
            yield from ((sentence, True) for sentence in _values(_word(field.name), _get(old, field), _get(new, field)))
    yield from _words(old, new)


def _mode(old: Mode, new: Mode) -> str:
    if {old, new} == {Mode.MONITOR, Mode.OPEN}:
        return f"now is in mode {new} instead of {old}: nothing is denied in either"
    if old is Mode.QUARANTINE:
        return f"leaves quarantine and {_MODES[new].replace(' instead of enforcing', '')}"
    return _MODES[new]


def _subject(old: Policy, new: Policy) -> Iterator[Difference]:
    for kind in ("cgroups", "interfaces", "images", "pods", "labels", "session", "nodes"):
        before, after = (_entries(getattr(policy.subject, kind)) for policy in (old, new))
        if came := [one for one in after if one not in before]:
            yield f"is for {kind} {listed_text(came)} from now on", True
        if went := [one for one in before if one not in after]:
            yield f"is for {kind} {listed_text(went)} no longer", True


def _entries(given: Pods | Iterable[str | tuple[str, str]] | None) -> list[str]:
    if given is None or isinstance(given, Pods):
        return [pods_text(given)] if given else []
    return [_entry(one) for one in given]


def _entry(one: str | tuple[str, str]) -> str:
    return one if isinstance(one, str) else "=".join(one)


def _dns(old: DnsSettings, new: DnsSettings) -> Iterator[str]:
    before, after = ({query_type_word(kind): None for kind in dns.types} for dns in (old, new))
    if came := [word for word in after if word not in before]:
        yield f"opens questions of type {listed_text(came)}, of hosts that a rule names exactly"
    if went := [word for word in before if word not in after]:
        yield f"closes questions of type {listed_text(went)}"
    yield from _upstreams(old.upstreams, new.upstreams)
    for field in fields(DnsSettings):
        if field.name not in ("types", "upstreams"):
            yield from _values(f"dns.{field.name}", _get(old, field), _get(new, field))


def _upstreams(old: tuple[Upstreams, ...], new: tuple[Upstreams, ...]) -> Iterator[str]:
    before, after = ({one.domain: listed_text(one.servers) for one in them} for them in (old, new))
    for domain in sorted(before.keys() | after.keys()):
        was, becomes = (them.get(domain, "the host's own resolvers") for them in (before, after))
        if was != becomes:
            yield f"asks {becomes} about {domain or 'every name'}, was {was}"


def _limits(old: Limits, new: Limits) -> Iterator[str]:
    for field in fields(Limits):
        was, becomes = (limit_text(field.name, getattr(limits, field.name)) for limits in (old, new))
        if was != becomes:
            yield f"limits the {field.name} of a workload: {becomes}, was {was}"


def _values(what: str, old: object, new: object) -> Iterator[str]:
    """A sentence for each value that differs, however deep."""
    if old == new:
        return
    if is_dataclass(old) and is_dataclass(new) and type(old) is type(new):
        for field in fields(old):
            yield from _values(f"{what}.{_word(field.name)}", _get(old, field), _get(new, field))
    else:
        yield f"sets {what} to {_value(new)}, was {_value(old)}"


def _value(value: object) -> str:
    if value is None:
        return "none"
    if is_dataclass(value):
        return ", ".join(f"{_word(field.name)} {_value(_get(value, field))}" for field in fields(value))
    return str(value.value if isinstance(value, Enum) else value)


def _get(value: object, field: Field[Any]) -> object:
    return getattr(value, field.name)


def _word(name: str) -> str:
    return name.replace("on_undeclared", "onUndeclared")


def _words(old: Policy, new: Policy) -> Iterator[Difference]:
    for what, was, becomes in (
        ("name", old.name, new.name),
        ("owner", old.owner, new.owner),
        ("reason", old.reason, new.reason),
        ("labels", *(listed_text(map(_entry, policy.labels)) for policy in (old, new))),
        ("expiry", *(time_text(policy.expires) for policy in (old, new))),
    ):
        if was != becomes:
            yield f"the policy's {what} is {becomes or 'empty'}, was {was or 'empty'}", False
