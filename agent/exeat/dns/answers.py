"""From an upstream's reply to what the workload is told: the name's own chain, and nothing that came beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exeat.core.resolvable import Resolvable
from exeat.dns.names import name_at
from exeat.dns.records import Kind, Rcode, Record, Reply
from exeat.model.networks import mapped_bytes

CHAIN_MAX = 16  # RFC 1034 sets no limit; BIND and unbound stop at 16 and 11
ADDRESSES_MAX = 64  # as many as fit into 1232 bytes of UDP, generously
_DAY_S = 86_400
_HIDING = (Kind.SVCB, Kind.HTTPS)  # keys for Encrypted ClientHello, also where any kind was asked for
_TOLD_RCODES = (Rcode.NOERROR, Rcode.NXDOMAIN)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is told, and what must be granted before."""

    rcode: int
    records: tuple[Record, ...]
    addresses: tuple[bytes, ...]  # 16 bytes each
    withheld: tuple[bytes, ...]  # private ones that were taken out
    ttl_s: int

    def without(self, addresses: Sequence[bytes]) -> "Answer":
        """The answer without what could not be granted."""
        if not addresses:
            return self
        kept = tuple(one for one in self.records if not _is_address(one) or mapped_bytes(one.data) not in addresses)
        return replace(self, records=kept, addresses=tuple(one for one in self.addresses if one not in addresses))


def _is_address(record: Record) -> bool:
    return record.kind in (Kind.A, Kind.AAAA)


def make_answer(reply: Reply, name: str, kind: int, resolvable: Resolvable, *, withholds: bool) -> Answer:
    """Follows the aliases from the name asked; what no alias leads to was put there by somebody else and is dropped."""
    if reply.rcode not in _TOLD_RCODES:
        return Answer(Rcode.SERVFAIL, (), (), (), 0)
    told: list[Record] = []
    owner = name
    seen = {owner}
    by_owner: dict[str, list[Record]] = {}
    for record in reply.records:
        by_owner.setdefault(record.name, []).append(record)
    while kind != Kind.CNAME and len(seen) <= CHAIN_MAX:
        alias = next((one for one in by_owner.get(owner, ()) if one.kind == Kind.CNAME), None)
        if alias is None:
            break
        told.append(alias)
        owner = name_at(alias.data)
        if owner in seen:
            return Answer(Rcode.SERVFAIL, (), (), (), 0)
        seen.add(owner)
    withheld: list[bytes] = []
    addresses: list[bytes] = []
    for record in by_owner.get(owner, ()):
        if record.kind in _HIDING or (record.kind != kind and kind != Kind.ANY):
            continue
        if _is_address(record):
            address = mapped_bytes(record.data)
            if withholds and resolvable.is_special(address) and not resolvable.allows_special(address):
                withheld.append(address)
                continue
            if address in addresses or len(addresses) >= ADDRESSES_MAX:
                continue
            addresses.append(address)
        told.append(record)
    ttl_s = min((record.ttl for record in told), default=reply.negative_ttl or 0)
    return Answer(reply.rcode, tuple(told), tuple(addresses), tuple(withheld), min(ttl_s, _DAY_S))
