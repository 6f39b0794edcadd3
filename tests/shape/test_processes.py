"""How tests are spread over processes: fixtures of a file are made once; what must not run side by side does not."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_tests_of_one_file_stay_in_one_process() -> None:
    """Of two files, each has one. A version of pytest or xdist that spreads them would only be slower, and flaky."""
    files = ["tests/unit/test_names.py", "tests/unit/test_wire_names.py"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", *files],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=True,
    ).stdout  # fmt: skip
    found = set(re.findall(r"\[(gw\d+)\] \[ *\d+%\] PASSED (\S+?)::", ran))
    assert sorted(file for _, file in found) == files
    assert len({process for process, _ in found}) == 2, "both files ran in the same process: nothing was shown"
