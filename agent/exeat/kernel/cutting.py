"""Ends the connection of which an event tells, where its program would else wait for an answer for ever."""

from exeat.kernel.abi import Hook
from exeat.kernel.events import Event
from exeat.kernel.sockets import Diagnosis
from exeat.model.verdicts import Verdict

_TCP = 6
DENYING = (Verdict.DROPPED, Verdict.ERROR)
# Its packets are dropped by now. Also where the writer of a hello was told EACCES: Node.js (20) forgets that and would
# wait for an answer.
_HOOKS = (Hook.PACKET, Hook.HELLO)


def must_end(event: Event) -> bool:
    """Whether the connection goes on and yet leads nowhere."""
    return event.protocol == _TCP and event.verdict in DENYING and event.hook in _HOOKS


def end(event: Event, diagnosis: Diagnosis) -> bool:
    """Whether the connection was found in this namespace."""
    port, source_port = int.from_bytes(event.port, "big"), int.from_bytes(event.source_port, "big")
    return diagnosis.destroy_flow(bytes(event.address), port, bytes(event.source), source_port, event.cookie)
