"""What whoever registers an interface says of the guest behind it."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class GuestSaid:
    """As text, as it was said. What is left out is learnt from the host and from the guest's first frames."""

    mac: str = ""
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()  # whom the guest may look for, beside the host's own addresses there
    gateway_mac: str = ""  # to whom it may send, beside the interface itself or its bridge
    allows_dhcp: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return self == _NOTHING


_NOTHING = GuestSaid()


def read_said(fields: dict[str, Any]) -> GuestSaid:
    """From JSON. Raises TypeError or ValueError for anything else."""
    read = GuestSaid(**fields)
    read = replace(read, addresses=tuple(read.addresses), gateways=tuple(read.gateways))
    texts = (read.mac, read.gateway_mac, *read.addresses, *read.gateways)
    if not all(isinstance(text, str) for text in texts) or not isinstance(read.allows_dhcp, bool):
        raise ValueError("a word about a guest is of the wrong kind")
    return read
