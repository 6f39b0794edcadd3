"""Questions that look like data being carried out: a name below an allowed wildcard is a message to whoever serves it.

Three signs, for each registered domain (what somebody registered below a public suffix): many different names in a
minute, a long label, and a label as random as ciphertext. Each has a price in false alarms, so what to do about them is
the policy's choice. No sign sees data that trickles: few names a minute pass, of short labels or of words.

Randomness is judged label by label. All labels in front of the domain together would part less well: readable ones such
as `prometheus-kube-prometheus-alertmanager.monitoring.svc` come to 4.0 bits a character as random ones do. A
hexadecimal label cannot exceed 4.0 bits, so that the many names with a hash in them stay below the default.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from math import log2

from exeat.core.public_suffixes import is_public_suffix
from exeat.model.policy import TunnelLimits

MINUTE_NS = 60 * 10**9
DOMAINS_MAX = 1000
# Fewer say nothing: n different characters have log2(n) bits each, and short names seldom repeat one.
ENTROPY_CHARACTERS = 20
# One more than any rule of the public suffix list has: what stands in front is never looked up.
SUFFIX_LABELS_MAX = 8


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of one registered domain."""

    domain: str
    why: str
    sample: str  # the name that was asked for last

    def __str__(self) -> str:
        return f"{self.domain}: {self.why}, as in {self.sample}"


@dataclass(slots=True)
class _Domain:
    """The names asked for lately, the latest last. Hashes: the names themselves could take megabytes."""

    asked_ns: OrderedDict[int, int] = field(default_factory=OrderedDict)

    def last_ns(self) -> int:
        return next(reversed(self.asked_ns.values()))

    def note(self, name: str, now_ns: int, limit: int) -> bool:
        """Whether more than `limit` different names were asked for in the last minute.

        The latest `limit + 1` are kept, which says that exactly; how many more there were is not known.
        """
        self.asked_ns[hash(name)] = now_ns
        self.asked_ns.move_to_end(hash(name))
        if len(self.asked_ns) > limit + 1:
            self.asked_ns.popitem(last=False)
        return len(self.asked_ns) > limit and now_ns - next(iter(self.asked_ns.values())) < MINUTE_NS


class TunnelWatch:
    """Watches the questions of one workload.

    Remembers DOMAINS_MAX domains; beyond them the one that was asked about longest ago is forgotten, and counts anew.
    """

    def __init__(self, limits: TunnelLimits) -> None:
        self._limits = limits
        self._domains: OrderedDict[str, _Domain] = OrderedDict()

    def look(self, name: str, now_ns: int) -> Evidence | None:
        """What is suspicious about asking for this name now; lower-case, without the trailing dot.

        Told every time. A name that is a registered domain or a public suffix carries nothing in front of itself.
        """
        domain, labels = parted(name)
        signs = []
        if self._note(domain, name, now_ns):
            signs.append(f"more than {self._limits.names_per_minute} names in a minute")
        longest = max(map(len, labels), default=0)
        if longest > self._limits.label_length:
            signs.append(f"a label of {longest} characters")
        bits = max((entropy(label) for label in labels if len(label) >= ENTROPY_CHARACTERS), default=0.0)
        if bits > self._limits.entropy:
            signs.append(f"{bits:.2f} bits a character")
        return Evidence(domain, ", ".join(signs), name) if signs else None

    def _note(self, domain: str, name: str, now_ns: int) -> bool:
        is_beyond = self._domains.setdefault(domain, _Domain()).note(name, now_ns, self._limits.names_per_minute)
        self._domains.move_to_end(domain)
        while len(self._domains) > DOMAINS_MAX or now_ns - self._oldest().last_ns() >= MINUTE_NS:
            self._domains.popitem(last=False)
        return is_beyond

    def _oldest(self) -> _Domain:
        return next(iter(self._domains.values()))


def parted(name: str) -> tuple[str, list[str]]:
    """A name's registered domain, and the labels in front of it. A public suffix counts as the domain."""
    labels = name.split(".")
    for index in range(max(0, len(labels) - SUFFIX_LABELS_MAX), len(labels) - 1):
        if is_public_suffix(".".join(labels[index:])):
            break  # the name is a public suffix itself: a longer one would have ended the walk
        if is_public_suffix(".".join(labels[index + 1 :])):
            return ".".join(labels[index:]), labels[:index]
    return name, []


def entropy(text: str) -> float:
    """Shannon's, in bits a character, of the characters' frequencies in the text itself."""
    return -sum(count / len(text) * log2(count / len(text)) for count in Counter(text).values())
