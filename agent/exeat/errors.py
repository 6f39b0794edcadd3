"""Every error that exeat raises on purpose: what is wrong, and what to do about it, in one sentence."""


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
