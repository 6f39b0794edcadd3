"""`exeat plane serve`: the plane's daemon."""

import argparse
import asyncio
import importlib.util
import logging
import os
import sys
from pathlib import Path

from exeat.errors import ExeatError
from exeat.plane.settings import DEFAULT_FILE

_PACKAGES = ("starlette", "uvicorn", "jinja2")
# A thread that compares two large policies would let go of the interpreter each 5 ms only. Whoever draws up a push asks
# the store twenty times, and waits so long each time: 130 ms in place of 10.
_SWITCH_S = 0.001


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "serve",
        help="run the control plane",
        description="Keeps the policies of a fleet, brings them to its agents and takes their verdicts in, until it is "
        "told to stop. Agents enforce on without it.",
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_FILE, metavar="FILE", help=f"settings (default: {DEFAULT_FILE})"
    )
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Runs it until a signal ends it."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ExeatError(f"the plane needs {', '.join(missing)}: pip install 'exeat[plane]'")
    from exeat.plane.settings_file import load_settings

    settings = load_settings(options.config)
    # gRPC writes a line for each connection that is no TLS, or of a client that shows no certificate.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="exeat: %(levelname)s: %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of every request that is none
    from exeat.plane.daemon import PlaneDaemon
    from exeat.plane.web import application

    sys.setswitchinterval(_SWITCH_S)

    async def run() -> None:
        await PlaneDaemon(settings, application).run()

    asyncio.run(run())
    return 0
