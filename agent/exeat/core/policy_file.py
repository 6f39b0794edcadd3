"""The text of a policy file to a Policy: the document's shape. What a rule means is policy_rule's matter."""

import re
from dataclasses import dataclass

from exeat.core.interface_text import why_no_interface
from exeat.core.policy_dns import DnsReader
from exeat.core.policy_limits import LimitsReader
from exeat.core.policy_rule import RuleReader
from exeat.core.problems import Problems, shown
from exeat.core.time_text import parse_time
from exeat.core.yaml_fields import Fields, read_integer, read_list, read_parsed, read_text, read_word
from exeat.core.yaml_nodes import Mapping, Node, compose
from exeat.model.policy import Mode, OnUndeclared, Policy, Rule, Subject

RULES_MAX = 20_000
_API_VERSION = "exeat.dev/v1"
_KIND = "EgressPolicy"
_SUBJECT = ("cgroups", "interfaces", "labels", "nodes")
_POLICY_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class PolicyReading:
    """A policy, and what its author should look at again: `file:line: sentence` each."""

    policy: Policy
    warnings: tuple[str, ...]


def read_policy(text: str, filename: str) -> PolicyReading:
    """Read a policy. Raises PolicyError with every problem of the document as `file:line: what, what instead`."""
    problems = Problems(filename)
    root = compose(text, problems)
    if not isinstance(root, Mapping):
        raise problems.failure(root.line, f"this is no policy: begin with `apiVersion: {_API_VERSION}`")
    reader = _DocumentReader(problems)
    policy = reader.read(Fields(root, "the policy", ("apiVersion", "kind", "metadata", "spec"), problems))
    problems.raise_if_any()
    return PolicyReading(policy, problems.warnings())


@dataclass(frozen=True, slots=True)
class _DocumentReader:
    problems: Problems

    def read(self, document: Fields) -> Policy:
        document.constant("apiVersion", _API_VERSION)
        document.constant("kind", _KIND)
        name, labels = self._metadata(document)
        node = document.required("spec", "`spec:` with the policy's rules")
        spec_fields = (
            "owner",
            "reason",
            "expires",
            "subject",
            "mode",
            "rollout",
            "dns",
            "limits",
            "onUndeclared",
            "egress",
        )
        spec = document.mapping(node, "`spec`", spec_fields)
        if spec is None:
            return Policy(name, labels=labels)
        expires = read_parsed(spec.get("expires"), "`expires`", parse_time, self.problems)
        return Policy(
            name=name,
            rules=self._rules(spec, RuleReader(self.problems, expires)),
            mode=read_word(spec.get("mode"), "`mode`", Mode, self.problems) or Mode.ENFORCE,
            owner=read_text(spec.get("owner"), "`owner`", self.problems) or "",
            reason=read_text(spec.get("reason"), "`reason`", self.problems) or "",
            expires=expires,
            labels=labels,
            subject=self._subject(spec),
            rollout_percent=self._rollout_percent(spec),
            dns=DnsReader(self.problems).read(spec),
            limits=LimitsReader(self.problems).read(spec),
            on_undeclared=self._on_undeclared(spec),
        )

    def _metadata(self, document: Fields) -> tuple[str, tuple[tuple[str, str], ...]]:
        node = document.required("metadata", "`metadata: {name: ...}`")
        metadata = document.mapping(node, "`metadata`", ("name", "labels"))
        if metadata is None:
            return "", ()
        name_node = metadata.required("name", "a name such as `coding-agent`")
        name = read_text(name_node, "the policy's `name`", self.problems)
        if name and name_node and not _POLICY_NAME.fullmatch(name):
            self.problems.add(
                name_node.line,
                f"the policy's `name` is {shown(name)}: write at most 63 small letters, digits and hyphens, "
                "beginning and ending with a letter or digit",
            )
        return name or "", self._labels(metadata)

    def _labels(self, fields: Fields, kind: str = "labels") -> tuple[tuple[str, str], ...]:
        node = fields.get(kind)
        if node is None:
            return ()
        if not isinstance(node, Mapping):
            self.problems.add(node.line, f"`{kind}` is no mapping: write `{kind}: {{label: value}}`")
            return ()
        labels = []
        for name, field in node.fields.items():
            key = read_text(field.key, "a label's name", self.problems, 63)
            value = read_text(field.node, f"the label {shown(name)}", self.problems, 253)
            if key is not None and value is not None:
                labels.append((key, value))
        return tuple(labels)

    def _subject(self, spec: Fields) -> Subject:
        subject = spec.mapping(spec.get("subject"), "`subject`", _SUBJECT)
        if subject is None:
            return Subject()
        read = Subject(
            cgroups=self._patterns(subject, "cgroups"),
            interfaces=self._patterns(subject, "interfaces"),
            labels=self._labels(subject),
            nodes=self._labels(subject, "nodes"),
        )
        if not any(name in subject for name in _SUBJECT[:-1]):
            where = " of these nodes" if "nodes" in subject else ""
            self.problems.add(
                spec.line_of("subject"),
                f"`subject` could mean nobody or everybody{where}: write `cgroups`, `interfaces` or `labels`, "
                "or leave it out",
            )
        return read

    def _patterns(self, subject: Fields, name: str) -> tuple[str, ...]:
        why_bad = _why_no_cgroup if name == "cgroups" else why_no_interface
        patterns = []
        for node in read_list(subject.get(name), f"`{name}`", self.problems):
            pattern = read_text(node, f"an entry of `{name}`", self.problems)
            if pattern is None:
                continue
            if why := why_bad(pattern):
                self.problems.add(node.line, why)
            patterns.append(pattern)
        return tuple(dict.fromkeys(patterns))

    def _rollout_percent(self, spec: Fields) -> int:
        rollout = spec.mapping(spec.get("rollout"), "`rollout`", ("percent",))
        if rollout is None:
            return 100
        percent = rollout.required("percent", "the share of workloads in `mode`, as in `{percent: 10}`")
        read = read_integer(percent, "`percent`", self.problems, 0, 100)
        return 100 if read is None else read

    def _on_undeclared(self, spec: Fields) -> OnUndeclared:
        read = read_word(spec.get("onUndeclared"), "`onUndeclared`", OnUndeclared, self.problems)
        return read or OnUndeclared.DENY

    def _rules(self, spec: Fields, reader: RuleReader) -> tuple[Rule, ...]:
        node = spec.required("egress", "a list of rules, or `egress: []` to deny everything")
        nodes = read_list(node, "`egress`", self.problems, may_be_empty=True)
        if len(nodes) > RULES_MAX:
            self.problems.add(
                nodes[RULES_MAX].line,
                f"the policy has {len(nodes):,} rules, of which at most {RULES_MAX:,} are read: "
                "put hosts or networks that share their ports into one rule",
            )
        first_lines: dict[str, int] = {}
        rules = []
        for rule_node in nodes[:RULES_MAX]:
            rule = reader.read(rule_node)
            if rule is None:
                continue
            line = _name_line(rule_node)
            if rule.name in first_lines:
                self.problems.add(
                    line,
                    f"a rule in line {first_lines[rule.name]} is named {shown(rule.name)} too: "
                    "give each its own name, because verdicts say which one it was",
                )
            elif rule.name:
                first_lines[rule.name] = line
            rules.append(rule)
        return tuple(rules)


def _name_line(rule_node: Node) -> int:
    if isinstance(rule_node, Mapping) and "name" in rule_node.fields:
        return rule_node.fields["name"].line
    return rule_node.line


def _why_no_cgroup(pattern: str) -> str | None:
    parts = pattern.split("/")
    if parts[0] or (pattern != "/" and any(part in ("", ".", "..") for part in parts[1:])):
        return (
            f"{shown(pattern)} is no cgroup: write its path below /sys/fs/cgroup, from a slash on, "
            "as in `/agents.slice/coder-*.scope`"
        )
    return None
