"""Has a child process compile, load and pin programs: what BCC takes of memory goes with the child."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from exeat.errors import KernelError
from exeat.kernel.programs import PROGRAMS, Program
from exeat.kernel.source import joined_source


def compile_and_pin(
    map_directory: Path, program_directory: Path, programs: Sequence[Program] = PROGRAMS, text: str | None = None
) -> dict[str, str]:
    """Compiles in a child process, which pins what it loaded; maps that are pinned already are used as they are.

    `text`: another source than the whole of ours. Returns the programs that this kernel refused, and how.
    """
    request = {
        "text": joined_source() if text is None else text,
        "map_directory": str(map_directory),
        "program_directory": str(program_directory),
        "programs": {program.name: (program.program_type, program.attach_type) for program in programs},
    }
    child = subprocess.run(
        [sys.executable, "-P", "-m", "exeat.kernel.compile_child"],  # -P: nothing of the directory where it is called
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        answer = json.loads(child.stdout)
    except json.JSONDecodeError:
        answer = {"error": f"the BPF compiler ended with status {child.returncode}"}
    if "ok" not in answer:
        story = child.stderr.strip().splitlines()
        raise KernelError("\n".join([answer["error"], *(f"  {line}" for line in story[-20:])]))
    return dict(answer["refused"])
