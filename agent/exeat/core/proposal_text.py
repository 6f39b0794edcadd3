"""A learned policy as text: YAML for the policy reader, and comments for the person who must decide.

What a program had a say in is a host name in canonical form, an address, or made harmless in a comment.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from exeat.core.doh_hosts import known_doh_hosts
from exeat.model.networks import SPECIAL_NETWORKS, Address
from exeat.model.policy import Protocol

_COMMAND_MAX, _NOTE_MAX = 1000, 400  # characters
_PORTS_IN_NAME = 4
_HEAD = """\
#
# It allows what this run reached, and TLS to what it only resolved. Nothing was denied meanwhile, so look at each
# line: is it meant? Did the run do all that the command ever does? Could an address be a name? Who answers for it
# (`owner`), and until when (`expires`)? Both stand under `spec`.
"""


@dataclass(frozen=True, slots=True)
class ProposedRule:
    """A rule, with how often each of its hosts and addresses was seen."""

    protocol: Protocol
    ports: tuple[int, ...]  # sorted
    hosts: Mapping[str, int] = field(default_factory=dict)
    cidrs: Mapping[Address, int] = field(default_factory=dict)
    is_only_resolved: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """By which rules are sorted."""
        addresses = sorted((one.version, int(one)) for one in self.cidrs)
        kind = (self.is_only_resolved, list(Protocol).index(self.protocol), bool(self.cidrs))
        return (*kind, self.ports, sorted(self.hosts), addresses)

    @property
    def name(self) -> str:
        """What it is about; several may have the same."""
        if self.is_only_resolved:
            return "only-resolved"
        ports = "-".join(map(str, self.ports)) if len(self.ports) <= _PORTS_IN_NAME else f"{len(self.ports)}-ports"
        return "-".join(filter(None, (self.protocol.value, ports, "addresses" if self.cidrs else "")))


@dataclass(frozen=True, slots=True)
class Proposal:
    """All that is to be written."""

    name: str
    command: str
    now: datetime
    rules: tuple[ProposedRule, ...]
    types: Mapping[str, tuple[str, ...]]  # of questions, and the names asked for
    notes: tuple[tuple[str, int], ...]  # what the rules do not allow, and how often it was seen


def proposal_text(proposal: Proposal) -> str:
    """The policy's text."""
    return "".join(f"{line}\n" for line in _lines(proposal))


def _lines(proposal: Proposal) -> Iterator[str]:
    when = proposal.now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    yield f"# Learned by exeat on {when} from: {_visible(proposal.command, _COMMAND_MAX)}"
    yield from _HEAD.splitlines()
    if proposal.notes:
        yield "#"
        yield "# Seen, and in no rule:"
        for sentence, count in proposal.notes:
            yield f"# - {_visible(sentence, _NOTE_MAX)} ({_times(count)})"
    yield "apiVersion: exeat.dev/v1"
    yield "kind: EgressPolicy"
    yield "metadata:"
    yield f"  name: {json.dumps(proposal.name)}"
    yield "spec:"
    yield f'  reason: "what one run reached on {when}"'
    yield "  mode: enforce"
    if proposal.types:
        yield "  dns:"
        yield "    types:"
        for word, names in proposal.types.items():
            yield f"    - {word}  # asked for {_some(names)}"
    yield "  egress:" if proposal.rules else "  egress: []"
    used: dict[str, int] = {}
    for rule in sorted(proposal.rules, key=lambda rule: rule.key):
        used[rule.name] = used.get(rule.name, 0) + 1
        number = f" ({used[rule.name]})" if used[rule.name] > 1 else ""
        yield from _rule_lines(rule, rule.name + number)


def _rule_lines(rule: ProposedRule, name: str) -> Iterator[str]:
    if rule.is_only_resolved:
        yield "  # Resolved and never reached. Under a policy, names that are in no rule do not resolve."
    yield f"  - name: {json.dumps(name)}"
    yield f"    protocol: {rule.protocol.value}"
    if rule.ports:
        yield f"    ports: [{', '.join(map(str, rule.ports))}]"
    if rule.hosts:
        yield "    hosts:"
        for host, count in sorted(rule.hosts.items()):
            yield f"    - {json.dumps(host)}  # {_about_host(rule, host, count)}"
    if rule.cidrs:
        yield "    cidrs:"
        for address, count in sorted(rule.cidrs.items(), key=lambda item: (item[0].version, int(item[0]))):
            yield f'    - "{address}/{address.max_prefixlen}"  # {_times(count)}{_about_address(address)}'


def _about_host(rule: ProposedRule, host: str, count: int) -> str:
    doh = "; resolves names over HTTPS, around this policy: leave it out if you can" if _is_doh(host) else ""
    if rule.is_only_resolved:
        return f"only resolved, never reached{doh}"
    if rule.protocol is Protocol.UDP:
        return _times(count) + doh
    return ("1 connection" if count == 1 else f"{count} connections") + doh


def _about_address(address: Address) -> str:
    kinds = [(network.prefixlen, kind) for kind, network in SPECIAL_NETWORKS if address in network]
    return f"; {max(kinds)[1]}" if kinds else ""


def _is_doh(host: str) -> bool:
    return known_doh_hosts().covers(host)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _some(names: tuple[str, ...]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _visible(text: str, longest: int) -> str:
    """On one line and with nothing that moves a cursor or turns the line around; YAML must be able to read it, too."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: longest + 1])
    return shown if len(shown) <= longest else shown[:longest] + "..."
