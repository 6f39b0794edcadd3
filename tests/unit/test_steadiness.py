"""What would have an answer wait is done before anybody asks."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, resource
from pathlib import Path
from exeat.agent.steadiness import steady

def room():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("FDSize")).split()[1])

resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
before = room(), gc.get_freeze_count(), len(list(Path("/proc/self/fd").iterdir()))
steady()
after = room(), gc.get_freeze_count(), len(list(Path("/proc/self/fd").iterdir()))
print(before[0] < 4096 <= after[0], before[1] == 0 < after[1], before[2] == after[2])
"""

LIMITED = """
import resource, sys
from exeat.agent.steadiness import allow_descriptors

soft, hard = (int(one) for one in sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_descriptors(1000)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 4000, 1000), (256, 500, 500), (2000, 4000, 2000)])
def test_an_agent_takes_as_many_descriptors_as_it_may(soft: int, hard: int, then: int) -> None:
    """A container gets what its runtime gives it, of which there is no word in Kubernetes; more is not taken away."""
    line = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(then), str(hard)]


def test_the_table_of_descriptors_is_wide_and_what_is_there_is_no_garbage() -> None:
    """As far as the limit allows; no descriptor is left open."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "True True True\n"
