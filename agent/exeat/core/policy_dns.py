"""A policy's `dns` section: who is asked for names, how long their answers count, and what may be asked."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from exeat.core.duration_text import parse_duration
from exeat.core.problems import Problems, shown
from exeat.core.query_types import parse_query_type
from exeat.core.server_text import gather_upstreams, parse_domain, parse_server
from exeat.core.yaml_fields import Fields, read_fraction, read_integer, read_list, read_parsed, read_word
from exeat.core.yaml_nodes import Mapping, Node, Scalar
from exeat.model.policy import DnsSettings, Server, Tunnel, TunnelLimits, Upstreams

_FIELDS = ("upstreams", "min_grant", "max_grants", "types", "tunnel", "tunnel_limits")
_LIMITS = ("names_per_minute", "label_length", "entropy")
# Below, programs that cache addresses for a moment would be denied; above, an address has long gone to somebody else.
_MIN_GRANT_S = (30, 86_400)
_MAX_GRANTS = (16, 65_536)
_NAMES_PER_MINUTE = (1, 10_000)  # each is remembered for a minute
_LABEL_LENGTH = (1, 63)  # RFC 1035, 2.3.4; none is longer than 63
_ENTROPY = (1.0, 8.0)  # bits a character; no text has more than 8
_DEFAULT = DnsSettings()


@dataclass(frozen=True, slots=True)
class DnsReader:
    """Reads the `dns` section of one policy."""

    problems: Problems

    def read(self, spec: Fields) -> DnsSettings:
        """The settings; what is left out has its default."""
        dns = spec.mapping(spec.get("dns"), "`dns`", _FIELDS)
        if dns is None:
            return _DEFAULT
        max_grants = read_integer(dns.get("max_grants"), "`max_grants`", self.problems, *_MAX_GRANTS)
        return DnsSettings(
            upstreams=self._upstreams(dns),
            min_grant_s=self._min_grant_s(dns),
            max_grants=_DEFAULT.max_grants if max_grants is None else max_grants,
            types=self._types(dns),
            tunnel=read_word(dns.get("tunnel"), "`tunnel`", Tunnel, self.problems) or _DEFAULT.tunnel,
            tunnel_limits=self._tunnel_limits(dns),
        )

    def _upstreams(self, dns: Fields) -> tuple[Upstreams, ...]:
        """Those for every name first, then the domains in the order of the text."""
        nodes = read_list(dns.get("upstreams"), "`upstreams`", self.problems)
        plain = [node for node in nodes if not isinstance(node, Mapping)]
        pairs = [("", server) for server in self._servers(plain)]
        first_lines: dict[str, int] = {}
        for node in nodes:
            if isinstance(node, Mapping):
                pairs += self._of_domain(node, first_lines)
        return gather_upstreams(pairs)

    def _of_domain(self, node: Mapping, first_lines: dict[str, int]) -> Iterator[tuple[str, Server]]:
        fields = Fields(node, "an entry of `upstreams`", ("domain", "servers"), self.problems)
        domain_node = fields.required("domain", "the domain, as in `{domain: corp.example, servers: [10.0.0.53]}`")
        domain = read_parsed(domain_node, "a domain", parse_domain, self.problems)
        if domain is not None:
            if domain in first_lines:
                self.problems.add(
                    fields.line_of("domain"),
                    f"an entry in line {first_lines[domain]} is for {shown(domain)} too: put its `servers` into one",
                )
            first_lines.setdefault(domain, fields.line_of("domain"))
        servers = fields.required("servers", "the resolvers to ask, as in `servers: [10.0.0.53]`")
        for server in self._servers(read_list(servers, "`servers`", self.problems)):
            if domain is not None:
                yield domain, server

    def _servers(self, nodes: Iterable[Node]) -> list[Server]:
        servers: list[Server] = []
        for node in nodes:
            server = read_parsed(node, "a resolver", parse_server, self.problems)
            if server is None:
                continue
            if server in servers:
                self.problems.add(node.line, f"the resolver `{server}` is written twice: remove one")
            servers.append(server)
        return servers

    def _min_grant_s(self, dns: Fields) -> int:
        node = dns.get("min_grant")
        seconds = read_parsed(node, "`min_grant`", parse_duration, self.problems)
        if node is None or seconds is None:
            return _DEFAULT.min_grant_s
        if not _MIN_GRANT_S[0] <= seconds <= _MIN_GRANT_S[1]:
            text = shown(node.text) if isinstance(node, Scalar) else seconds
            self.problems.add(node.line, f"`min_grant` is {text}: write a span from `30s` to `24h`")
        return seconds

    def _types(self, dns: Fields) -> tuple[int, ...]:
        types: list[int] = []
        for node in read_list(dns.get("types"), "`types`", self.problems):
            kind = read_parsed(node, "a type", parse_query_type, self.problems)
            if kind is None:
                continue
            if kind in types:
                text = shown(node.text) if isinstance(node, Scalar) else kind
                self.problems.add(node.line, f"the type {text} is written twice: remove one")
            types.append(kind)
        return tuple(types)

    def _tunnel_limits(self, dns: Fields) -> TunnelLimits:
        limits = dns.mapping(dns.get("tunnel_limits"), "`tunnel_limits`", _LIMITS)
        if limits is None:
            return _DEFAULT.tunnel_limits
        names = read_integer(limits.get("names_per_minute"), "`names_per_minute`", self.problems, *_NAMES_PER_MINUTE)
        length = read_integer(limits.get("label_length"), "`label_length`", self.problems, *_LABEL_LENGTH)
        entropy = read_fraction(limits.get("entropy"), "`entropy`", self.problems, *_ENTROPY)
        default = _DEFAULT.tunnel_limits
        return TunnelLimits(
            names_per_minute=default.names_per_minute if names is None else names,
            label_length=default.label_length if length is None else length,
            entropy=default.entropy if entropy is None else entropy,
        )
