"""What counts as a connection that was tried, in the report and where a roll-out is judged. Pure.

An agent tells of each connection, and of each new destination of a datagram, once: at `connect` or `send`, or, where a
name decides, at `hello`, when the name is known (bpf/hook_connect.h); of a guest's, at `guest` in either case. What was
denied at a question, a socket or a packet never came so far, and counts too; what was allowed there goes on to a
connect. Only in mode `open` a connection that would have been denied is told of at both.
"""

_FLOWS = frozenset({"connect", "send", "hello", "guest"})


def is_try(hook: str, is_denied: bool) -> bool:
    """Whether a verdict at this hook stands for a connection. So there are never more denials than tries."""
    return is_denied or hook in _FLOWS
