"""What every command that asks the agent shares: where it listens, and how its answer is shown."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from exeat.control.client import DEFAULT_SOCKET, connect
from exeat.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from exeat.control.asking import AgentClient

STATUSES = "exit status: 0 done; 1 the answer is no; 2 wrong usage; 4 the agent is not running; 125 exeat failed"


def add_common(parser: argparse.ArgumentParser, outputs: tuple[str, ...] = ("table", "json")) -> None:
    """`--socket` and `-o`."""
    default = Path(os.environ.get("EXEAT_SOCKET") or DEFAULT_SOCKET)
    parser.epilog = STATUSES
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        default=default,
        help=f"where the agent listens (EXEAT_SOCKET, else {DEFAULT_SOCKET})",
    )
    parser.add_argument("-o", "--output", choices=outputs, default=outputs[0], help="how to show it")


def agent_of(options: argparse.Namespace) -> "AgentClient":
    """The agent, connected."""
    return connect(options.socket)


def is_json(options: argparse.Namespace) -> bool:
    """Whether a machine reads it."""
    return bool(options.output == "json")


def show_json(message: Message) -> None:
    """As protobuf's JSON, which its readers in every language read back."""
    print(MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True))


def mode_word(mode: int) -> str:
    """enforce, monitor ...; a newer agent's by its number; a dash where there is none."""
    if mode == pb.MODE_UNSPECIFIED:
        return "-"
    name = pb.Mode.DESCRIPTOR.values_by_number.get(mode)
    return name.name.removeprefix("MODE_").lower() if name else f"mode {mode}"
