"""Cases of a policy test: what must be allowed and what denied, read as strictly as policies are.

A case says what a program does: it resolves a name, connects to where the name leads, and says hello; or it connects to
an address that it had from elsewhere.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from exeat.core.names import parse_host_pattern
from exeat.core.network_text import is_like_address, refuse_what_may_be_a_port
from exeat.core.port_text import parse_ports
from exeat.core.problems import Problems, shown
from exeat.core.time_text import parse_time
from exeat.core.yaml_fields import Fields, read_list, read_parsed, read_text
from exeat.core.yaml_nodes import Mapping, Node, Scalar, compose
from exeat.model.names import PatternKind
from exeat.model.networks import Address
from exeat.model.policy import Protocol
from exeat.model.verdicts import Reason

CASES_MAX = 20_000
KIND = "PolicyTest"
_API_VERSION = "exeat.dev/v1"
_CASE = ("expect", "address", "reason", "rule", "at")
_EXPECT = re.compile(r"(?P<target>\S+) +(?P<outcome>\S+)")
# `[ADDRESS]`, an IPv6 address outside brackets, which takes all colons, or what has at most one; `:PORT`, `/PROTO`.
_TARGET = re.compile(
    r"(\[(?P<bracketed>[^\[\]]*)\]|(?P<ipv6>[^/\[\]]*:[^/\[\]]*:[^/\[\]]*)|(?P<plain>[^:/\[\]]*))"
    r"(:(?P<port>[^/:]*))?(/(?P<protocol>[^/]*))?"
)
_EXAMPLES = "`api.example.com:443 allow`, `10.1.2.3:22/tcp deny` or `[2001:db8::7]:53/udp deny`"
_TLS_PORT = 443


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a program tries."""

    protocol: Protocol
    port: int  # 0 for icmp
    name: str | None  # resolved first, and named in the hello if that is read; None: it knows the address
    address: Address | None  # None: one to which the name is taken to lead
    has_ech: bool = False
    is_resolved: bool = True  # whether the name leads to the address; if not, the program had that from elsewhere

    def __str__(self) -> str:
        where = f"[{self.address}]" if self.address and self.address.version == 6 else str(self.address)
        port = f":{self.port}" if self.port else ""
        if self.name is None:
            return f"{where}{port}/{self.protocol}"
        return f"{self.name}{port}/{self.protocol}" + (f" at {self.address}" if self.address else "")


@dataclass(frozen=True, slots=True)
class Ruling:
    """What came of an attempt."""

    is_allowed: bool
    reason: Reason
    rule: str | None

    @property
    def word(self) -> str:
        """As cases say it."""
        return "allow" if self.is_allowed else "deny"


@dataclass(frozen=True, slots=True)
class Case:
    """An attempt, and what must come of it."""

    line: int
    attempt: Attempt
    is_allowed: bool
    reason: Reason | None = None
    rule: str | None = None
    at: datetime | None = None  # aware; None: now

    def why_failed(self, ruling: Ruling) -> str | None:
        """What is not as it should be; None: nothing."""
        wrong = []
        if ruling.is_allowed is not self.is_allowed:
            wrong.append(f"expected {'allow' if self.is_allowed else 'deny'}, got {ruling.word}")
        if self.reason not in (None, ruling.reason):
            wrong.append(f"expected the reason {self.reason.word if self.reason else ''}, got {ruling.reason.word}")
        if self.rule not in (None, ruling.rule):
            wrong.append(f"expected rule {self.rule}, got {ruling.rule or 'none'}")
        return "; ".join(wrong) or None


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """A document of cases."""

    policy: str | None  # a file, relative to the document
    cases: tuple[Case, ...]


def read_cases(text: str, filename: str) -> PolicyTest:
    """Read a document of cases. Raises PolicyError with every problem as `file:line: what, what instead`."""
    problems = Problems(filename)
    root = compose(text, problems)
    if not isinstance(root, Mapping):
        raise problems.failure(root.line, f"this is no policy test: begin with `apiVersion: {_API_VERSION}`")
    if "spec" in root.fields and "cases" not in root.fields:
        raise problems.failure(root.line, "this is a policy and no policy test: give the cases with --cases FILE")
    reader = _Reader(problems)
    found = reader.read(Fields(root, "the policy test", ("apiVersion", "kind", "policy", "cases"), problems))
    problems.raise_if_any()
    return found


def parse_target(text: str) -> Attempt:
    """Read `HOST[:PORT][/PROTO]`: tls on 443 for a name, tcp for an address. Raises ValueError with a sentence."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise ValueError(f"{shown(text)} is no destination: write {_EXAMPLES}")
    if match["ipv6"]:
        refuse_what_may_be_a_port(match["ipv6"])
    host = match["bracketed"] or match["ipv6"] or match["plain"]
    if not host:
        raise ValueError(f"{shown(text)} names nobody: write {_EXAMPLES}")
    is_address = bool(match["bracketed"] or is_like_address(host))
    protocol = _protocol(match["protocol"], Protocol.TCP if is_address else Protocol.TLS)
    port = _port(match["port"], protocol, text)
    if not is_address:
        return Attempt(protocol, port, _name(host, protocol), None)
    if protocol is Protocol.TLS:
        raise ValueError(f"{shown(text)}: a hello names a host: write the host, and the address under `address`")
    return Attempt(protocol, port, None, _address(host))


@dataclass(frozen=True, slots=True)
class _Reader:
    problems: Problems

    def read(self, document: Fields) -> PolicyTest:
        for name, value in (("apiVersion", _API_VERSION), ("kind", KIND)):
            node = document.required(name, f"`{name}: {value}`")
            if node is not None and not (isinstance(node, Scalar) and node.text == value):
                what = shown(node.text) if isinstance(node, Scalar) else "no text"
                self.problems.add(node.line, f"`{name}` is {what}: write `{name}: {value}`")
        nodes = read_list(document.required("cases", "a list of cases"), "`cases`", self.problems)
        if len(nodes) > CASES_MAX:
            self.problems.add(nodes[CASES_MAX].line, f"there are more than {CASES_MAX:,} cases: split the file")
        cases = tuple(case for node in nodes[:CASES_MAX] if (case := self._case(node)))
        return PolicyTest(read_text(document.get("policy"), "`policy`", self.problems), cases)

    def _case(self, node: Node) -> Case | None:
        if not isinstance(node, Mapping):
            self.problems.add(node.line, "a case is no mapping: write `- expect: ...` and its other fields below it")
            return None
        fields = Fields(node, "a case", _CASE, self.problems)
        expect = fields.required("expect", f"what is tried and what must come of it, as in {_EXAMPLES}")
        read = read_parsed(expect, "`expect`", _parse_expect, self.problems)
        address = read_parsed(fields.get("address"), "`address`", _address, self.problems)
        reason = read_parsed(fields.get("reason"), "`reason`", _parse_reason, self.problems)
        rule = read_text(fields.get("rule"), "`rule`", self.problems)
        at = read_parsed(fields.get("at"), "`at`", parse_time, self.problems)
        if read is None:
            return None
        attempt, is_allowed = read
        if address is not None and attempt.name is None:
            self.problems.add(fields.line_of("address"), "`address` says where a name leads: `expect` has none")
        elif address is not None:
            attempt = Attempt(attempt.protocol, attempt.port, attempt.name, address)
        return Case(fields.line, attempt, is_allowed, reason, rule, at)


def _parse_expect(text: str) -> tuple[Attempt, bool]:
    match = _EXPECT.fullmatch(text)
    if match is None or match["outcome"] not in ("allow", "deny"):
        raise ValueError(f"{shown(text)} is no expectation: write a destination and `allow` or `deny`: {_EXAMPLES}")
    return parse_target(match["target"]), match["outcome"] == "allow"


def _parse_reason(text: str) -> Reason:
    for reason in Reason:
        if reason.word == text:
            return reason
    raise ValueError(f"{shown(text)} is no reason: write a word of docs/reasons.md, such as `port_not_allowed`")


def _protocol(text: str | None, default: Protocol) -> Protocol:
    if text is None:
        return default
    try:
        return Protocol(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is no protocol: write one of {', '.join(Protocol)}") from None


def _port(text: str | None, protocol: Protocol, whole: str) -> int:
    if protocol is Protocol.ICMP:
        if text is not None:
            raise ValueError(f"{shown(whole)} has a port, and icmp has none: leave it out")
        return 0
    if text is None:
        if protocol is Protocol.TLS:
            return _TLS_PORT
        raise ValueError(f"{shown(whole)} has no port: write one after a colon, as in {_EXAMPLES}")
    ports = parse_ports(text)
    if ports.first != ports.last or "-" in text:
        raise ValueError(f"{shown(text)} is a range: a program tries one port")
    return ports.first


def _name(text: str, protocol: Protocol) -> str:
    pattern = parse_host_pattern(text)
    if pattern.kind is not PatternKind.EXACT:
        raise ValueError(f"{shown(text)} is a pattern: a program tries one name, as in `api.{pattern.name}`")
    if protocol is Protocol.ICMP:
        raise ValueError(f"{shown(text)}: icmp carries no names: write an address")
    return pattern.name


def _address(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is no address: write one like `203.0.113.7` or `2001:db8::7`") from None
