"""`exeat run --learn`: from what was reached in `open` mode to a policy for it, by name wherever a name explains it.

The aim: the same command under the proposed policy is denied nothing that a rule can allow. So every name that was
resolved is in some rule, because under a policy other names do not resolve at all: a name that was resolved and never
reached is proposed for TLS on port 443, and marked. Whether an upstream resolver knew the name is not in a verdict;
names that nobody has, out of a search list say, are among these.

What was asked for and what was sent is the program's word: a name that no rule can hold becomes a comment.
proposal_text.py writes it all down.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from exeat.core.names import host_of_service, parse_host_pattern
from exeat.core.port_text import NAMING_PORTS
from exeat.core.proposal_text import Proposal, ProposedRule, proposal_text
from exeat.core.query_types import QUERY_TYPES, parse_query_type, query_type_word
from exeat.core.reached import Reached, Room, is_special
from exeat.core.steps import step_of
from exeat.core.verdict_text import endpoint, protocol_word, subject_of
from exeat.model.networks import Address
from exeat.model.policy import Protocol
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict

_NOTES_MAX = 200
_PROTOCOLS = {1: Protocol.ICMP, 6: Protocol.TCP, 17: Protocol.UDP, 58: Protocol.ICMP}
_TLS_PORT = 443
# getaddrinfo() connects UDP sockets to put addresses in order: glibc's to the port asked for or to 0, musl's to 65535.
_PROBED_PORTS = (0, 65535)
_PTR, _SRV = QUERY_TYPES["PTR"], QUERY_TYPES["SRV"]
_NEEDS_NO_TYPE = frozenset(QUERY_TYPES[word] for word in ("A", "AAAA", "CNAME", "SRV", "PTR", "HTTPS", "SVCB"))


@dataclass(frozen=True, slots=True)
class _Probe:
    """A connect() on a UDP socket: it sends nothing, and what is sent on it later is not told."""

    hosts: tuple[str, ...]
    address: Address
    port: int


class _Notes:
    """What was seen and is in no rule, as sentences; a bounded number."""

    def __init__(self, counted: Counter[str] | None = None) -> None:
        self.counted = Counter(counted)

    def add(self, sentence: str, count: int) -> None:
        if sentence in self.counted or len(self.counted) < _NOTES_MAX:
            self.counted[sentence] += count


class Learned:
    """What one run reached."""

    def __init__(self) -> None:
        self._room = Room()
        self._reached = Reached(self._room)
        self._probe_room = Room()  # most of them are in no rule in the end
        self._probes: Counter[_Probe] = Counter()
        self._begun: Counter[_Probe] = Counter()  # TCP connections, of which many say more at their first bytes
        self._spoke: set[tuple[Address, int]] = set()
        self._asked: defaultdict[str, Counter[int]] = defaultdict(Counter)  # by type of question
        self._notes = _Notes()

    def saw(self, record: Record, names: tuple[str, ...]) -> None:
        """Take a verdict in, with the names that the gate resolved to its address."""
        if record.reason is Reason.OWN_LOOPBACK or record.hook == "agent":
            return
        if record.verdict is not Verdict.FORWARDED:
            evidence = f" ({record.evidence})" if record.evidence else ""
            self._note(record, f"{record.reason.word} even while learning{evidence}")
        elif record.hook == "query":
            name = (record.name or ".").lower()
            if self._room.admits((name, record.detail), name):
                self._asked[name][record.detail] += record.count
        elif record.hook in ("socket", "option", "frame"):
            is_icmp = record.hook == "socket" and _PROTOCOLS.get(record.protocol) is Protocol.ICMP
            self._note(record, "an icmp rule allows pings, not raw ones" if is_icmp else "no rule can allow it")
        else:
            self._see_flow(record, names)

    def policy_text(self, name: str, command: str, now: datetime) -> str:
        """The proposal as YAML. `command` is quoted for a shell, and made harmless here; `now` is aware."""
        notes = _Notes(self._notes.counted)
        reached = self._reached.copy()
        self._judge_begun(reached)
        self._judge_probes(reached, notes)
        rules = [*reached.rules()]
        if asked := self._only_resolved(reached.hosts(), notes):
            rules.append(ProposedRule(Protocol.TLS, (_TLS_PORT,), hosts=asked, is_only_resolved=True))
        types = self._types(notes)
        if refusals := reached.room.refusals + self._probe_room.refusals:
            notes.counted["more destinations than a policy can hold: learn in smaller parts"] = refusals
        return proposal_text(Proposal(name, command, now, tuple(rules), types, tuple(sorted(notes.counted.items()))))

    def _note(self, record: Record, sentence: str) -> None:
        self._notes.add(f"{subject_of(record)}: {sentence}", record.count)

    def _see_flow(self, record: Record, names: tuple[str, ...]) -> None:
        protocol = _PROTOCOLS.get(record.protocol)
        address = record.address
        step = step_of(record)
        if address is not None and step == "hello" and self._probe_room.admits((address, record.port)):
            self._spoke.add((address, record.port))
        if protocol is None or address is None:
            self._note(record, "no rule can allow it")
        elif protocol is Protocol.ICMP:
            self._reached.add_address(protocol, address, 0, record.count)
        elif record.port in NAMING_PORTS:
            where = f"{protocol_word(record.protocol)} {endpoint(address, record.port)}"
            sentence = (
                "never allowed: names are resolved by exeat's own resolver, which answers on every address's port 53"
            )
            self._notes.add(f"{where}: {sentence}", record.count)
        elif step == "packet":
            self._note(
                record,
                "packets without a connect, as of connections that came in: if they are meant, write a rule for the "
                "other side's network and ports",
            )
        elif protocol is Protocol.TCP and step == "connect" and record.reason is Reason.OPEN_MODE:
            begun = _Probe(tuple(host for host in sorted(set(names)) if _host(host) == host), address, record.port)
            if record.port and self._probe_room.admits((Protocol.TCP, begun)):
                self._begun[begun] += record.count
        elif protocol is Protocol.TCP and record.name:
            self._see_hello(record, record.name, address, names)
        else:
            self._see_plain(record, protocol, address, names)

    def _see_hello(self, record: Record, sni: str, address: Address, names: tuple[str, ...]) -> None:
        host = _host(sni)
        if host is None or record.port == 0:
            self._note(record, "no rule can hold this name")
        elif host in names and not is_special(address):
            self._reached.add_host(Protocol.TLS, host, record.port, record.count)
        else:
            self._reached.add_host_at(host, record.port, address, record.count)

    def _see_plain(self, record: Record, protocol: Protocol, address: Address, names: tuple[str, ...]) -> None:
        hosts = tuple(host for host in sorted(set(names)) if _host(host) == host)
        if hosts and protocol is Protocol.UDP and step_of(record) == "connect":
            probe = _Probe(hosts, address, record.port)
            if self._probe_room.admits(probe):
                self._probes[probe] += record.count
        elif record.port == 0:
            self._note(record, "nobody listens on port 0")
        else:
            self._reached.add(protocol, hosts, address, record.port, record.count)

    def _judge_begun(self, reached: Reached) -> None:
        """Connections over which nothing was sent: refused ones, and those on which the server was to speak first."""
        for begun, count in self._begun.items():
            if (begun.address, begun.port) not in self._spoke:
                reached.add(Protocol.TCP, begun.hosts, begun.address, begun.port, count)

    def _judge_probes(self, reached: Reached, notes: _Notes) -> None:
        """Where a host's same port was reached over TCP, connect() on UDP was getaddrinfo's; else it is believed."""
        over_tcp = reached.over_tcp()
        for probe, count in self._probes.items():
            if probe.port in _PROBED_PORTS:
                continue
            if any((host, probe.port) in over_tcp for host in probe.hosts):
                notes.add(
                    f"udp port {probe.port} of {probe.hosts[0]}: only connect(), which sends nothing and is part of "
                    "resolving a name: if the program speaks QUIC, write a udp rule",
                    count,
                )
            else:
                reached.add(Protocol.UDP, probe.hosts, probe.address, probe.port, count)

    def _only_resolved(self, ruled: set[str], notes: _Notes) -> dict[str, int]:
        """The names that were resolved and are in no rule so far."""
        found: Counter[str] = Counter()
        for asked, kinds in sorted(self._asked.items()):
            if asked == "localhost" or asked.endswith(".localhost"):
                continue  # answered without a rule
            if kinds[_PTR]:
                notes.add(
                    f"{asked} (dns PTR): answered for the addresses of allowed names, without a rule", kinds[_PTR]
                )
            count = kinds.total() - kinds[_PTR]
            if not count:
                continue
            host = _host(asked) or (_host(host_of_service(asked) or "") if kinds[_SRV] else None)
            if host is None:
                notes.add(f"{asked} (dns): no rule can hold this name", count)
            elif host not in ruled:
                found[host] += count
        return dict(found)

    def _types(self, notes: _Notes) -> dict[str, tuple[str, ...]]:
        """The types of question that the policy must allow, and the names that were asked for."""
        types: defaultdict[str, list[str]] = defaultdict(list)
        for asked, kinds in sorted(self._asked.items()):
            for kind in sorted(kinds.keys() - _NEEDS_NO_TYPE):
                word = query_type_word(kind)
                try:
                    parse_query_type(word)
                except ValueError:
                    notes.add(f"{asked} (dns {word}): no policy can allow this type of question", kinds[kind])
                    continue
                if _host(asked):
                    types[word].append(asked)
        return {word: tuple(names) for word, names in sorted(types.items())}


@lru_cache(maxsize=4096)  # an address of a content network has many names, and each connection to it brings them all
def _host(name: str) -> str | None:
    """A name as a rule for exactly this host holds it; None if none can."""
    try:
        pattern = parse_host_pattern(name)
    except ValueError:
        return None
    return pattern.name if pattern.name == name.lower() else None  # else a wildcard, a last dot, or no A-labels
