"""The problems of one document, collected so that its author sees all of them at once, in the order of lines."""

from exeat.errors import PolicyError

_SHOWN_MAX = 80


def shown(text: str) -> str:
    """An author's words as a problem quotes them: on one line, short, and unable to move the terminal's cursor."""
    cut = text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return f"`{visible}`"


class Problems:
    """What is wrong with a document, and what is merely doubtful, each with its line (from 1)."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._problems: dict[tuple[int, str], None] = {}  # an alias repeats a problem; its author need read it once
        self._warnings: dict[tuple[int, str], None] = {}

    def add(self, line: int, sentence: str) -> None:
        """Note what is wrong and what to write instead."""
        self._problems[line, sentence] = None

    def warn(self, line: int, sentence: str) -> None:
        """Note what is allowed but deserves a second look."""
        self._warnings[line, sentence] = None

    def warnings(self) -> tuple[str, ...]:
        """The doubts, as `file:line: sentence`."""
        return tuple(self._in_order(self._warnings))

    def raise_if_any(self) -> None:
        """Raise PolicyError with all problems."""
        if self._problems:
            raise PolicyError(self._in_order(self._problems))

    def failure(self, line: int, sentence: str) -> PolicyError:
        """The error for a document that cannot be read beyond this line: this problem and those before it."""
        self.add(line, sentence)
        return PolicyError(self._in_order(self._problems))

    def _in_order(self, noted: dict[tuple[int, str], None]) -> list[str]:
        return [f"{self._filename}:{line}: {sentence}" for line, sentence in sorted(noted, key=lambda note: note[0])]
