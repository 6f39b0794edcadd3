#!/usr/lib/exeat/bin/python3 -I
"""/usr/bin/exeat. The package brings Python packages for several versions of Python beside each other."""

import os
import sys

_HOME = "/usr/lib/exeat/lib"
_FAILED = 125  # docs/exit-codes.md


def main() -> None:
    """Runs exeat with the packages that fit this machine's Python, or says which there are."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not os.path.isdir(f"{_HOME}/{version}"):
        there = ", ".join(sorted(name.removeprefix("python") for name in os.listdir(_HOME)))
        print(
            f"exeat: /usr/bin/python3 is {version.removeprefix('python')}, and this package is for {there}: install an "
            "exeat that was built for it. What the kernel enforces goes on.",
            file=sys.stderr,
        )
        sys.exit(_FAILED)
    from exeat.cli.main import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
