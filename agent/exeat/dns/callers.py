"""Who asks a gate. On loopback the programs let nobody but its workload there. To the host's addresses for guests
anybody may send something: only what the programs have led there is a question.
"""

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from exeat.dns.tellings import Asked
from exeat.model.networks import Address
from exeat.model.verdicts import Reason, Verdict

Peer = tuple[Any, ...]  # an address, a port and what else there is, as sockets tell it
IsLed = Callable[[int, Address, int], bool]  # by protocol, address and port


class Callers:
    """Those of one gate. `note` hears of strangers."""

    def __init__(self, is_led: IsLed | None, note: Callable[[Asked], None]) -> None:
        self._is_led = is_led
        self._note = note

    def admits(self, protocol: int, peer: Peer) -> bool:
        """Whether it is the workload. Who else asks gets no answer; that it did is counted."""
        if self._is_led is None:
            return True
        source = _address(peer[0])
        if self._is_led(protocol, source, peer[1]):
            return True
        self._note(Asked(Verdict.DROPPED, Reason.GATE_NOT_OWN, None, "", 0, protocol, peer[1], 0, source=source))
        return False

    def source(self, peer: Peer) -> Address | None:
        """Of a guest; all others ask from loopback."""
        return _address(peer[0]) if self._is_led else None


@lru_cache(maxsize=1024)
def _address(text: str) -> Address:
    return ip_address(text.partition("%")[0])  # link-local ones come with their interface
