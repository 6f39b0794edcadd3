"""How the agent stands with its control plane: what `exeat status` shows of it, and what it complains about."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from exeat.agent.bundles import Bundle, shown_time
from exeat.agent.views import stamp
from exeat.v1 import agent_pb2 as pb

_PATIENCE_NS = 10 * 10**9  # a plane that is restarted is back by then
_SKEW_MAX_MS = 30_000
_SKEW_SHOWN_MS = 10**15
_NAME_MAX = 200
_MILLISECOND = 10**6


def _nothing() -> int:
    return 0


@dataclass(slots=True)
class Standing:
    """Written by those that talk with the plane."""

    node: str
    key: str = ""  # that must sign
    bundle: Bundle | None = None  # in force
    endpoint: str = ""
    is_connected: bool = False
    since_ns: int = field(default_factory=time.time_ns)
    name: str = ""  # the plane's
    version: str = ""
    skew_ms: int = 0
    fault: str = ""  # why it is away
    last_answer: str = ""
    refused: str = ""  # why the last push was refused; empty: it was accepted
    damage: str = ""  # what of the bundle on disk cannot be used
    unkept: str = ""  # why the bundle in force is not on disk
    troubles: tuple[Callable[[], str], ...] = ()  # more that may be wrong, asked when it is shown
    unreported: Callable[[], int] = _nothing
    lost: Callable[[], int] = _nothing

    def came(self, endpoint: str, name: str, version: str) -> None:
        """The plane has taken the agent in."""
        self.endpoint, self.name, self.version = endpoint, name[:_NAME_MAX], version[:_NAME_MAX]
        self.is_connected, self.since_ns, self.fault = True, time.time_ns(), ""

    def went(self, endpoint: str, why: str) -> None:
        """It is away, or cannot be reached."""
        if self.is_connected:
            self.is_connected, self.since_ns = False, time.time_ns()
        self.endpoint, self.fault = endpoint, why

    def heard_clock(self, plane_ns: int, now_ns: int) -> None:
        """What time it is there."""
        self.skew_ms = max(-_SKEW_SHOWN_MS, min((plane_ns - now_ns) // _MILLISECOND, _SKEW_SHOWN_MS))

    def complaints(self, now_ns: int) -> list[str]:
        """What is not as it should be."""
        said = [self.damage, self.refused, self.unkept, *(trouble() for trouble in self.troubles)]
        if not self.is_connected and self.fault and now_ns - self.since_ns > _PATIENCE_NS:
            said.append(f"the plane is away, and what it sent last stays in force: {self.fault}")
        if self.bundle and self.bundle.expires_ns <= now_ns:
            said.append(
                f"the plane's manifest {self.bundle.serial} has expired, at {shown_time(self.bundle.expires_ns)}; "
                "it stays in force until the plane sends another one"
            )
        if self.is_connected and abs(self.skew_ms) > _SKEW_MAX_MS:
            which = "ahead of" if self.skew_ms > 0 else "behind"
            said.append(f"the plane's clock is {abs(self.skew_ms) // 1000} s {which} this node's: set one of them")
        if lost := self.lost():
            said.append(f"{lost} lines of the log were deleted before the plane had them: they are counted, not told")
        return [one for one in said if one]

    def view(self) -> pb.PlaneStatus:
        """For `exeat status`."""
        view = pb.PlaneStatus(
            node=self.node,
            endpoint=self.endpoint,
            state="connected" if self.is_connected else "away",
            since=stamp(self.since_ns),
            name=self.name,
            version=self.version,
            last_answer=self.last_answer,
            fault=self.fault,
            unreported=self.unreported(),
            lost=self.lost(),
            skew_ms=self.skew_ms,
            key=self.key,
        )
        if self.bundle:
            view.serial = self.bundle.serial
            view.expires.CopyFrom(stamp(self.bundle.expires_ns))
        return view
