"""Commands in words: what was asked for, and what became of it. Pure."""

from exeat.plane.nodes.commands import Asked, State
from exeat.plane.web.wording import span
from exeat.v1 import agent_pb2

KINDS = {
    State.WAITING: "warn hollow",
    State.SENT: "accent hollow",
    State.DONE: "ok",
    State.REFUSED: "bad",
    State.EXPIRED: "bad hollow",
}


def wish(asked: Asked) -> str:
    """`quarantine coder-7 for 1h`."""
    what = asked.command.WhichOneof("what")
    if what == "set_mode":
        mode = asked.command.set_mode
        word = agent_pb2.Mode.Name(mode.mode).removeprefix("MODE_").lower()
        how = f"mode {word}" if mode.mode else "the policies' own mode"
        return f"{how} for {mode.workload}" + (f", {span(mode.for_s)} long" if mode.for_s else "")
    if what == "allow":
        allow = asked.command.allow
        return f"allow {allow.destination} for {allow.workload}, {span(allow.for_s)} long"
    if what == "disallow":
        return f"end an allowance of {asked.command.disallow.workload}"
    return "something that this plane does not know"


def why(asked: Asked) -> str:
    """The reason that somebody gave."""
    what = asked.command.WhichOneof("what")
    return str(getattr(getattr(asked.command, what), "reason", "")) if what else ""


def answer(asked: Asked) -> str:
    """What came of it; empty: nothing yet."""
    if asked.state is State.EXPIRED:
        return "no answer came in time: it was not begun, or nobody knows"
    if asked.result is None:
        return ""
    if asked.result.refusal:
        return asked.result.refusal
    cut = asked.result.cut
    return f"{cut} connection{'' if cut == 1 else 's'} cut" if cut else ""


def workload_of(asked: Asked) -> str:
    """For which workload it is."""
    what = asked.command.WhichOneof("what")
    return str(getattr(asked.command, what).workload) if what else ""
