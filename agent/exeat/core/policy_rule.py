"""One egress rule: its fields, and what they mean together."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from exeat.core.names import parse_host_pattern
from exeat.core.network_text import NetworkSet, parse_network
from exeat.core.port_text import EVERY_PORT, overlaps, parse_ports, why_closed, why_gated
from exeat.core.problems import Problems
from exeat.core.public_suffixes import why_wide
from exeat.core.time_text import parse_time
from exeat.core.yaml_fields import Fields, read_integer, read_list, read_parsed, read_text, read_word
from exeat.core.yaml_nodes import Mapping, Node, Scalar
from exeat.model.names import HostPattern
from exeat.model.networks import Network
from exeat.model.policy import PortRange, Protocol, Rule

RULE_NAME_MAX = 128  # it stands in every verdict
_FIELDS = ("name", "hosts", "cidrs", "except", "ports", "protocol", "ech", "expires")
_TLS_PORTS = (PortRange(443, 443),)


class Ech(StrEnum):
    """What a rule says about a ClientHello with an Encrypted Client Hello extension."""

    DENY = "deny"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class RuleReader:
    """Reads the rules of one policy."""

    problems: Problems
    policy_expires: datetime | None

    def read(self, node: Node) -> Rule | None:
        """The rule, or None where no name could be read; its problems are noted."""
        if not isinstance(node, Mapping):
            self.problems.add(node.line, "an egress rule is no mapping: write `- name: ...` and its fields below it")
            return None
        fields = Fields(node, "an egress rule", _FIELDS, self.problems)
        name_node = fields.required("name", "a name that no other rule of the policy has, as in `- name: model-api`")
        name = read_text(name_node, "a rule's `name`", self.problems, RULE_NAME_MAX)
        protocol: Protocol | None = Protocol.TLS
        if "protocol" in fields:
            protocol = read_word(fields.get("protocol"), "`protocol`", Protocol, self.problems)
        if protocol is not None:
            self._check_meaning(fields, protocol)
        cidrs, excepts = self._networks(fields)
        ports = self._ports(fields)
        return Rule(
            name=name or "",
            protocol=protocol or Protocol.TLS,
            hosts=self._hosts(fields),
            cidrs=cidrs,
            excepts=excepts,
            ports=_TLS_PORTS if protocol is Protocol.TLS and "ports" not in fields else ports,
            expires=self._expires(fields),
            allows_ech=read_word(fields.get("ech"), "`ech`", Ech, self.problems) is Ech.ALLOW,
        )

    def _check_meaning(self, fields: Fields, protocol: Protocol) -> None:
        add = self.problems.add
        has_hosts, has_cidrs, hosts_line = "hosts" in fields, "cidrs" in fields, fields.line_of("hosts")
        if "ech" in fields and protocol is not Protocol.TLS:
            add(fields.line_of("ech"), f"`ech` speaks of tls, but the rule is for {protocol}: leave it out")
        if "except" in fields and not has_cidrs:
            add(fields.line_of("except"), "`except` takes from the rule's `cidrs`, and there are none: leave it out")
        if not has_hosts and not has_cidrs:
            what = "`cidrs`" if protocol is Protocol.ICMP else "`hosts` or `cidrs`"
            add(fields.line, f"the rule names no destination: write {what}")
        elif protocol is Protocol.TLS:
            if not has_hosts:
                add(
                    fields.line_of("cidrs"),
                    "a tls rule with `cidrs` alone names nobody whom a ClientHello could ask for: "
                    "name the `hosts`, or write `protocol: tcp` if any name will do",
                )
        elif protocol is Protocol.ICMP:
            if has_hosts:
                add(hosts_line, "icmp carries no names: write `cidrs` in place of `hosts`")
        elif has_hosts and has_cidrs:
            add(
                hosts_line,
                f"`hosts` and `cidrs` in one {protocol} rule could mean either or both: "
                "split it into a rule with `hosts` and a rule with `cidrs`",
            )
        self._check_ports(fields, protocol)

    def _check_ports(self, fields: Fields, protocol: Protocol) -> None:
        if protocol is Protocol.ICMP and "ports" in fields:
            self.problems.add(fields.line_of("ports"), "icmp has no ports: leave `ports` out")
        if protocol in (Protocol.TCP, Protocol.UDP) and "ports" not in fields:
            self.problems.add(
                fields.line, f'a {protocol} rule has no `ports`: write `ports: ["{EVERY_PORT}"]` if every port is meant'
            )

    def _hosts(self, fields: Fields) -> tuple[HostPattern, ...]:
        hosts = []
        for node in read_list(fields.get("hosts"), "`hosts`", self.problems):
            host = read_parsed(node, "a host", parse_host_pattern, self.problems)
            if host is not None:
                hosts.append(host)
                if warning := why_wide(host):
                    self.problems.warn(node.line, warning)
        return tuple(dict.fromkeys(hosts))

    def _networks(self, fields: Fields) -> tuple[tuple[Network, ...], tuple[Network, ...]]:
        cidrs = self._network_list(fields, "cidrs")
        excepts = self._network_list(fields, "except")
        around_excepts = NetworkSet(tuple(network for network, _ in cidrs))
        all_cidrs_read = "cidrs" in fields and bool(cidrs)
        all_excepts = NetworkSet(tuple(network for network, _ in excepts))
        seen: set[Network] = set()
        for network, line in excepts:
            if wider := all_excepts.around(network, strictly=True):
                self.problems.add(line, f"`except` {network} lies in {wider}, which is excepted too: remove one")
            elif network in seen:
                self.problems.add(line, f"`except` {network} is written twice: remove one")
            elif all_cidrs_read and not around_excepts.around(network, strictly=True):
                self.problems.add(
                    line, f"`except` {network} takes nothing away: it lies strictly inside none of the rule's `cidrs`"
                )
            seen.add(network)
        for network, line in cidrs:
            if wider := all_excepts.around(network, strictly=False):
                self.problems.add(
                    line, f"{network} opens nothing, because the rule excepts {wider}: remove one of the two"
                )
        return tuple(dict.fromkeys(n for n, _ in cidrs)), tuple(dict.fromkeys(n for n, _ in excepts))

    def _network_list(self, fields: Fields, name: str) -> list[tuple[Network, int]]:
        networks = []
        for node in read_list(fields.get(name), f"`{name}`", self.problems):
            network = read_parsed(node, "a network", parse_network, self.problems)
            if network is not None:
                networks.append((network, node.line))
        return networks

    def _ports(self, fields: Fields) -> tuple[PortRange, ...]:
        ports: list[tuple[PortRange, int]] = []
        for node in read_list(fields.get("ports"), "`ports`", self.problems):
            entry = self._port_entry(node)
            if entry is None:
                continue
            ports.append((entry, node.line))
            if problem := why_closed(entry):
                self.problems.add(node.line, problem)
            if warning := why_gated(entry):
                self.problems.warn(node.line, warning)
        for index, sentence in overlaps(entry for entry, _ in ports):
            self.problems.add(ports[index][1], sentence)
        return tuple(entry for entry, _ in ports)

    def _port_entry(self, node: Node) -> PortRange | None:
        if isinstance(node, Scalar) and "-" in node.text[1:]:
            return read_parsed(node, "a port", parse_ports, self.problems)
        port = read_integer(node, "a port", self.problems, EVERY_PORT.first, EVERY_PORT.last)
        return None if port is None else PortRange(port, port)

    def _expires(self, fields: Fields) -> datetime | None:
        expires = read_parsed(fields.get("expires"), "`expires`", parse_time, self.problems)
        if expires and self.policy_expires and expires > self.policy_expires:
            self.problems.add(
                fields.line_of("expires"),
                f"the rule would outlive its policy, which ends at {self.policy_expires:%Y-%m-%dT%H:%M:%SZ}: "
                "write an earlier time, or leave it out",
            )
        return expires
