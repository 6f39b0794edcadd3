"""How often somebody may try to sign in. A token cannot be guessed; trying must cost the plane nothing all the same."""

from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address

TRIES = 10
WINDOW_S = 300
_PLACES_MAX = 4096  # beyond, the one that tried longest ago is forgotten


class Attempts:
    """Failed attempts, by where they came from."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> int:
        """How long whoever is there must wait; 0: not at all."""
        failed = self._failed.get(_place(address), deque())
        while failed and failed[0] <= now_s - WINDOW_S:
            failed.popleft()
        return 0 if len(failed) < TRIES else max(1, round(failed[0] + WINDOW_S - now_s))

    def fail(self, address: str, now_s: float) -> None:
        """Notes a failure."""
        place = _place(address)
        self._failed.setdefault(place, deque(maxlen=TRIES)).append(now_s)
        self._failed.move_to_end(place)
        if len(self._failed) > _PLACES_MAX:
            self._failed.popitem(last=False)


def _place(text: str) -> str:
    """An IPv6 host has a whole /64 to come from."""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    return str(int(address) >> 64) if isinstance(address, IPv6Address) else text
