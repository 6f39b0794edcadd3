"""How a command reaches the agent. Without one running this costs no import of gRPC."""

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from exeat.errors import AgentUnavailable

if TYPE_CHECKING:
    from exeat.control.asking import AgentClient

SOCKET_VARIABLE = "EXEAT_SOCKET"
DEFAULT_SOCKET = Path("/run/exeat/agent.sock")
_START = "systemctl start exeat"


def connect(path: Path = DEFAULT_SOCKET) -> "AgentClient":
    """The agent at this socket. Raises AgentUnavailable with what to do where there is none, or not for us."""
    if trouble := trouble_at(path):
        raise AgentUnavailable(trouble)
    from exeat.control.asking import AgentClient

    return AgentClient(path)


def trouble_at(path: Path) -> str | None:
    """Why nobody can be asked there; None: somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except PermissionError:
            return f"only root and members of group exeat may ask the agent at {path}: sudo exeat ..."
        except OSError as error:
            return _trouble(path, error)
    return None


def _trouble(path: Path, error: OSError) -> str | None:
    if error.errno == errno.EAGAIN:  # its queue is full: gRPC waits
        return None
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        where = "" if path == DEFAULT_SOCKET else f" (nobody listens on {path})"
        return f"the agent is not running{where}: {_START}"
    return f"{path} is no agent's socket ({error}): name the right one with --socket"
