"""Every error that exeat raises on purpose: what is wrong, and what to do about it, in one sentence."""

from enum import Enum


class ExeatError(Exception):
    """Base of all; its text is written for the person at the terminal."""


class PolicyError(ExeatError):
    """A policy cannot mean what it says. `problems` holds one `file:line: what, and what to write instead` each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class KernelError(ExeatError):
    """The kernel cannot do, or refused, what enforcement needs."""


class LaunchError(ExeatError):
    """The command could not be started under its policy. `exit_status` is what `exeat run` ends with."""

    def __init__(self, text: str, exit_status: int = 125) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class SocketError(ExeatError):
    """The agent's own socket cannot be opened."""


class AgentUnavailable(ExeatError):
    """The agent cannot be asked: it does not run, or does not answer."""


class StatusWord(Enum):
    """How a request is refused; the values are gRPC's words, as agent.proto and plane.proto promise them."""

    INVALID = "INVALID_ARGUMENT"  # the request means nothing
    NOT_FOUND = "NOT_FOUND"  # no such workload, policy or allowance
    PRECONDITION = "FAILED_PRECONDITION"  # not now
    UNAVAILABLE = "UNAVAILABLE"  # it is ending, or has too much to do
    PERMISSION = "PERMISSION_DENIED"  # not to whoever asks
    UNAUTHENTICATED = "UNAUTHENTICATED"  # nobody knows who asks
    EXHAUSTED = "RESOURCE_EXHAUSTED"  # too large, or too many
    EXISTS = "ALREADY_EXISTS"  # the same is there anew


class Refused(ExeatError):
    """Agent or plane does not do what it was asked. Raised by its operations, and again at the asker's end."""

    def __init__(self, word: StatusWord, sentence: str) -> None:
        super().__init__(sentence)
        self.word = word
