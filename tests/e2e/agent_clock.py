"""An agent whose wall clock is ahead of the host's by as many seconds as a file says, now and whenever that changes.

    python -m e2e.agent_clock FILE agent --config ...      as `exeat agent --config ...`

No namespace covers CLOCK_REALTIME, and the host's clock is no test's to set.
"""

import datetime
import sys
import time
from pathlib import Path

_real_ns = time.time_ns


def _ahead_ns(file: Path) -> int:
    return int(float(file.read_text()) * 1e9)


def main() -> int:
    """Replaces the clock, then is the command."""
    file = Path(sys.argv.pop(1))
    time.time_ns = lambda: _real_ns() + _ahead_ns(file)
    time.time = lambda: time.time_ns() / 1e9

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Shifted":
            return cls.fromtimestamp(time.time(), tz)

    datetime.datetime = Shifted  # type: ignore[misc]
    from exeat.cli.main import main as exeat

    return exeat()


if __name__ == "__main__":
    sys.exit(main())
