"""`exeat detach`: takes every trace of exeat out of this host's kernel."""

import argparse
import os
from pathlib import Path

from exeat.control.client import DEFAULT_SOCKET, SOCKET_VARIABLE, trouble_at
from exeat.errors import KernelError
from exeat.kernel.instance import instances, remove_instance
from exeat.launch import sweep
from exeat.launch.runs import end_run, running
from exeat.run import forget


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "detach",
        help="remove every trace of exeat from the kernel",
        description="Removes the programs, maps, pins and cgroups of exeat. Commands under it are never let go: "
        "they must have ended, or --force ends them.",
    )
    parser.add_argument("--force", action="store_true", help="end the commands that still run under exeat")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Detaches."""
    socket = Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)
    if trouble_at(socket) is None:
        raise KernelError("an agent runs, and would attach everything again: systemctl stop exeat, then detach")
    alive = running()
    if alive and not options.force:
        raise KernelError(f"{', '.join(alive)} still runs; end it first, or use --force to have it ended")
    for name in alive:
        end_run(name, forget)
        print(f"ended {name}")
    sweep(forget)
    for name in instances():
        remove_instance(name)
        print(f"detached {name}")
    return 0
