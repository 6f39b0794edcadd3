"""Who is at the other end of a unix socket, as the kernel noted it when they connected."""

import ctypes
import errno
import grp
import os
import socket
import struct
from dataclasses import dataclass

from exeat.errors import SocketError

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python's getsockopt() takes no more than 256 groups
_CREDENTIALS = struct.Struct("3i")  # struct ucred
_NGROUPS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks."""

    uid: int
    gid: int
    pid: int
    name: str = ""  # who asked by way of the control plane; at the socket, only the kernel's word counts

    def __str__(self) -> str:
        return self.name or f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Who connected, by effective ids."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(uid, gid, pid)


def may_ask(connection: socket.socket, peer: Peer, group: int | None) -> bool:
    """Whether this is root or somebody of the group."""
    return peer.uid == 0 or (group is not None and (peer.gid == group or group in _groups_of(connection)))


def group_id(name: str | None) -> int | None:
    """The number of the group whose members may ask; None where there is no such group, so that only root may."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _groups_of(connection: socket.socket) -> frozenset[int]:
    libc = ctypes.CDLL(None, use_errno=True)
    groups = (ctypes.c_uint32 * _NGROUPS_MAX)()
    length = ctypes.c_uint32(ctypes.sizeof(groups))
    if libc.getsockopt(connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        if number == errno.ENODATA:  # it has no credentials to show
            return frozenset()
        raise SocketError(f"the groups of who connected cannot be read: {os.strerror(number)}")
    return frozenset(groups[: length.value // 4])
