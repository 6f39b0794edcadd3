"""`exeat detach`: takes every trace of exeat out of this host's kernel."""

import argparse
import os
import sys
from pathlib import Path

from exeat.control.client import DEFAULT_SOCKET, SOCKET_VARIABLE, trouble_at
from exeat.errors import ExeatError, KernelError
from exeat.interface_settings import GATE_ADDRESSES
from exeat.kernel.instance import instances, remove_instance
from exeat.kernel.local_addresses import take_off_loopback
from exeat.launch import sweep
from exeat.launch.runs import end_run, running
from exeat.model.networks import Address
from exeat.run import forget
from exeat.settings import DEFAULT_FILE, read_settings


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "detach",
        help="remove every trace of exeat from the kernel",
        description="Removes the programs, maps, pins and cgroups of exeat, and its resolver's addresses on lo. "
        "Commands under it are never let go: they must have ended, or --force ends them.",
    )
    parser.add_argument("--force", action="store_true", help="end the commands that still run under exeat")
    parser.add_argument("--config", type=Path, default=DEFAULT_FILE, metavar="FILE", help="settings of the agent")
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
    for address in clear_loopback(options.config):
        print(f"took {address} off lo")
    return 0


def clear_loopback(settings: Path) -> list[Address]:
    """Takes away the addresses where the resolver for guests listened: those that were there."""
    return [address for address in dict.fromkeys((*_gate(settings), *GATE_ADDRESSES)) if take_off_loopback(address)]


def _gate(settings: Path) -> tuple[Address, ...]:
    try:
        return read_settings(settings.read_text(), str(settings)).interfaces.gate
    except FileNotFoundError:
        return ()
    except (ExeatError, OSError, ValueError) as error:
        print(f"{error}\nif `spec.interfaces.gate` names addresses there, they stay on lo", file=sys.stderr)
        return ()
