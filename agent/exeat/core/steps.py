"""At which step of a connection a verdict fell. A guest's are all told by one hook."""

from exeat.model.record import Record
from exeat.model.verdicts import Reason

_TCP = 6
_OF_HELLOS = frozenset((Reason.NOT_TLS, Reason.SNI_MISSING))  # without a name


def step_of(record: Record) -> str:
    """The hook, as it would be called had a process of this host done the same."""
    if record.hook != "guest":
        return record.hook
    if record.protocol != _TCP:
        return "send"
    return "hello" if record.name is not None or record.reason in _OF_HELLOS else "connect"
