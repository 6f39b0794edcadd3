"""The text of a policy file to a Policy: the document's shape. What a rule means is policy_rule's matter."""

import re
from dataclasses import dataclass

from exeat.core.policy_dns import DnsReader
from exeat.core.policy_limits import LimitsReader
from exeat.core.policy_rule import RuleReader
from exeat.core.policy_subject import SubjectReader, read_pairs
from exeat.core.problems import Problems, shown
from exeat.core.time_text import parse_time
from exeat.core.yaml_fields import Fields, read_integer, read_list, read_parsed, read_text, read_word
from exeat.core.yaml_nodes import Mapping, Node, compose
from exeat.model.policy import Mode, OnUndeclared, Policy, Rule

RULES_MAX = 20_000
_API_VERSION = "exeat.dev/v1"
_KIND = "EgressPolicy"
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
            subject=SubjectReader(self.problems).read(spec),
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
        return name or "", read_pairs(metadata, "labels", self.problems)

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
