"""Sign-in by a proxy in front of the plane, which has asked an OpenID provider and says who it is in headers.

Whoever reaches the plane without the proxy could write such headers too: they count only on connections from its
addresses, and are not even read on others.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers

from exeat.model.networks import Network
from exeat.plane.people import Person, Role

_GROUPS = re.compile(r"[\s,;]+")
_NAME_MAX = 200


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxies are believed, and what they say where."""

    networks: tuple[Network, ...] = ()  # none: nobody is believed
    user_header: str = ""
    groups_header: str = ""
    groups: tuple[tuple[str, Role], ...] = ()  # what the members of a group may do

    def is_trusted(self, peer: str) -> bool:
        """Whether a connection comes from one of them."""
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self.networks if network.version == mapped.version)

    def person_of(self, peer: str, headers: Headers) -> Person | None:
        """Whom the proxy has signed in. None: nobody, or it is no proxy, or no group of theirs may do anything."""
        if not self.user_header or not self.is_trusted(peer):
            return None
        names = headers.getlist(self.user_header)
        # Twice: one of the two may be the browser's own, which the proxy has let through.
        if len(names) != 1 or not names[0].strip() or len(names[0]) > _NAME_MAX:
            return None
        given = headers.getlist(self.groups_header) if self.groups_header else []
        role = self._role(_GROUPS.split(given[0])) if len(given) == 1 else None
        return None if role is None else Person(names[0].strip(), role, "oidc")

    def address_of(self, peer: str, headers: Headers) -> str:
        """Where the browser is, as far as one can know: what the proxy added last, or who is connected."""
        told = headers.getlist("x-forwarded-for")
        if not told or not self.is_trusted(peer):
            return peer
        return told[-1].rpartition(",")[2].strip() or peer

    def _role(self, groups: Iterable[str]) -> Role | None:
        mine = set(groups)
        roles = [role for group, role in self.groups if group in mine]
        return max(roles, key=list(Role).index, default=None)
