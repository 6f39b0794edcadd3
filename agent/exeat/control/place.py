"""Where the agent listens: the socket that everybody sees, and a directory that only root may enter."""

import os
import shutil
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from exeat.control.peer import group_id
from exeat.errors import SocketError

_BACKLOG = 128
_PATH_MAX = 107  # sun_path, unix(7)
_INNER = "grpc.sock"


@dataclass(frozen=True, slots=True)
class Place:
    """What was opened, and what is to be removed in the end."""

    listener: socket.socket
    directory: Path  # 0700; holds gRPC's own socket
    group: int | None  # whose members may ask, beside root
    own: tuple[Path, int] | None  # the socket's path and inode; None: somebody else made it

    @property
    def inner(self) -> Path:
        """gRPC's own socket."""
        return self.directory / _INNER

    def stop_listening(self) -> None:
        """Takes the socket away, unless another agent has put its own there."""
        self.listener.close()
        if self.own and _inode(self.own[0]) == self.own[1]:
            self.own[0].unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def take_place(path: Path, group_name: str | None, listener: socket.socket | None) -> Place:
    """Opens the socket, 0660 for the group or 0600 where there is none; `listener`: one that listens already."""
    if len(os.fsencode(path)) > _PATH_MAX:
        raise SocketError(f"{path} is too long for a socket: the kernel takes {_PATH_MAX} bytes")
    try:
        _prepare(path.parent)
        if listener is None and _is_answered(path):
            raise SocketError(f"an agent listens on {path} already: systemctl stop exeat, or name another --socket")
        prefix = f".{path.name}."
        for left in path.parent.glob(f"{prefix}*"):  # by an agent that was killed
            if not _is_answered(left / _INNER):
                shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
        group = group_id(group_name)
        if listener is not None:
            listener.setblocking(False)
            return Place(listener, directory, group, None)
        return Place(_listen(path, directory, group), directory, group, (path, path.stat().st_ino))
    except OSError as error:
        raise SocketError(f"{path}: the agent cannot listen there: {error}") from error


def _prepare(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True)
        directory.chmod(0o755)  # whatever the umask
    found = directory.stat()
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SocketError(f"{directory}: others may put a socket of their own there: chown root, chmod go-w")


def _listen(path: Path, directory: Path, group: int | None) -> socket.socket:
    """Appears under its name only when it listens and has its owner: nobody finds it half made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    hidden = directory / "door"
    listener.bind(str(hidden))
    if group is not None:
        os.chown(hidden, -1, group)
    hidden.chmod(0o600 if group is None else 0o660)
    listener.listen(_BACKLOG)
    hidden.rename(path)
    return listener


def _is_answered(path: Path) -> bool:
    """Whether somebody listens there. Raises SocketError where something else than a socket lies."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} is no socket: remove it, or name another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # so many wait that its queue is full
            return True
    return True


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None
