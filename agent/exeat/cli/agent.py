"""`exeat agent`: the daemon."""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from exeat.errors import ExeatError, PolicyError
from exeat.settings import DEFAULT_FILE, Settings, read_settings

_M_ARENA_MAX = -8  # malloc.h


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "agent",
        help="run the daemon that keeps this host's workloads under their policies",
        description="Keeps every workload of this host under its policies until it is told to stop. What is in the "
        "kernel then enforces on; `exeat detach` ends enforcement.",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings (default: {DEFAULT_FILE}, or what holds without one)"
    )
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Runs it until a signal ends it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the daemon reads its policies
    if os.geteuid() != 0:
        raise ExeatError("exeat agent needs root, to load programs into the kernel")
    settings = _settings(options.config)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="exeat: %(levelname)s: %(message)s")
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)  # a dozen threads would each have one, and a megabyte unused in it
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would write of each broken connection
    from exeat.agent.daemon import Daemon
    from exeat.agent.steadiness import allow_descriptors

    allow_descriptors()

    async def run() -> None:
        await Daemon(settings).run()

    asyncio.run(run())
    return 0


def _settings(path: Path | None) -> Settings:
    if path is None and not DEFAULT_FILE.exists():
        return Settings()
    path = path or DEFAULT_FILE
    try:
        return read_settings(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError([f"{path}: cannot be read: {error}"]) from error
