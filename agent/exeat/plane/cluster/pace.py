"""How fast the policies of a namespace may change: histories are kept for ever, and reading takes time. Pure.

A namespace may bring in all that it has at once, and then goes on at a walk. What has to wait is only put off: the
object as it is when its turn comes is what counts.
"""

from dataclasses import dataclass

_AT_ONCE = 500.0
_PER_S = 0.1
_BYTES = 16 << 10  # a document counts once more for each of these


@dataclass(slots=True)
class _Purse:
    has: float
    at_s: float


class Pace:
    """For all namespaces, each with a purse of its own."""

    def __init__(self) -> None:
        self._purses: dict[str, _Purse] = {}

    def take(self, namespace: str, size: int, now_s: float) -> bool:
        """Whether a document of so many bytes may be read now."""
        purse = self._purses.setdefault(namespace, _Purse(_AT_ONCE, now_s))
        purse.has = min(_AT_ONCE, purse.has + max(0.0, now_s - purse.at_s) * _PER_S)
        purse.at_s = now_s
        price = 1 + size // _BYTES
        if purse.has < price:
            return False
        purse.has -= price
        if len(self._purses) > 1000:
            self._purses = {name: one for name, one in self._purses.items() if self._has(one, now_s) < _AT_ONCE}
        return True

    @staticmethod
    def _has(purse: _Purse, now_s: float) -> float:
        return purse.has + (now_s - purse.at_s) * _PER_S
