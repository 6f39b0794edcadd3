"""The system calls that a command under policy does not get, as one classic BPF program; no library, no dependency.

Everything else is allowed: this filter closes ways around the network hooks, it is no sandbox of the kernel. Debuggers
work, because a private PID namespace already keeps the command from every process that is not its own.
"""

import os
import struct
from dataclasses import dataclass

from exeat.errors import LaunchError
from exeat.launch import syscalls

# linux/seccomp.h, linux/audit.h, linux/bpf_common.h
_KILL = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EPERM = _ERRNO | 1
_ENOSYS = _ERRNO | 38
_LOAD = 0x20
_AND = 0x54
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_IF_ANY_BIT = 0x45
_RETURN = 0x06
_OFFSET_NR = 0
_OFFSET_ARCHITECTURE = 4
_OFFSET_ARGUMENTS = 16

_X32_BIT = 0x40000000
_CLONE_NEWUSER = 0x10000000
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C
_SOCK_TYPE_MASK = 0xF
_SOCK_PACKET = 10
_AF_INET = 2
_AF_NETLINK = 16
_FAMILIES = (1, _AF_INET, 10, _AF_NETLINK)  # unix, inet, inet6, netlink
_NETLINKS = (0, 4, 15, 16)  # route, sock_diag, kobject_uevent, generic


@dataclass(frozen=True)
class Architecture:
    """What differs: the audit architecture, the column in the table of numbers, and whether x32 must be told apart."""

    audit: int
    column: int
    has_x32: bool


ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, 0, True),
    "aarch64": Architecture(0xC00000B7, 1, False),
}

# name: (x86_64, aarch64), from asm/unistd_64.h and asm-generic/unistd.h. None: that architecture has no such call.
REFUSED: dict[str, tuple[int, int | None]] = {
    # would take the policy apart
    "bpf": (321, 280),
    # make the kernel resolve names through a helper program outside: keyctl request2 dns_resolver
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # send and receive with no system call of their own, and IORING_OP_SOCKET opens any family
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # would uncover what is masked, or bring a writable cgroup tree
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    # would enter a namespace, or take a socket, made outside
    "setns": (308, 268),
    "pidfd_getfd": (438, 438),
    # need capabilities that the command lacks; twice is safer where another kernel's check is younger
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "iopl": (172, None),
    "ioperm": (173, None),
}

# Judged by an argument, or answered with another error.
CONDITIONAL = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "ioctl": (16, 29),
    "unshare": (272, 97),
    "clone": (56, 220),
    "clone3": (435, 435),
}


def _do(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _load_argument(index: int) -> bytes:
    """Only the low half: the kernel takes these arguments as 32-bit numbers. Both architectures are little-endian."""
    return _do(_LOAD, _OFFSET_ARGUMENTS + 8 * index)


def _unless_one_of(values: tuple[int, ...], then: bytes) -> bytes:
    """Run `then` (which returns) unless the loaded value is one of these."""
    length = len(then) // 8
    tests = [_do(_IF_EQUAL, value, if_true=len(values) - 1 - at + length) for at, value in enumerate(values)]
    return b"".join(tests) + then


def _socket_rule() -> bytes:
    refuse = _do(_RETURN, _EPERM)
    # PF_INET with SOCK_PACKET becomes an AF_PACKET socket (net/socket.c, __sock_create).
    not_packet = (
        _load_argument(1)
        + _do(_AND, _SOCK_TYPE_MASK)
        + _do(_IF_EQUAL, _SOCK_PACKET, if_false=1)
        + refuse
        + _load_argument(0)
    )
    netlink = _load_argument(2) + _unless_one_of(_NETLINKS, refuse)
    return (
        _load_argument(0)
        + _unless_one_of(_FAMILIES, refuse)
        + not_packet
        + _do(_IF_EQUAL, _AF_NETLINK, if_false=len(netlink) // 8)
        + netlink
        + _do(_RETURN, _ALLOW)
    )


def _rules() -> dict[str, bytes]:
    refuse, allow = _do(_RETURN, _EPERM), _do(_RETURN, _ALLOW)
    new_user = _load_argument(0) + _do(_IF_ANY_BIT, _CLONE_NEWUSER, if_false=1) + refuse + allow
    return {
        "socket": _socket_rule(),
        "socketpair": _load_argument(0) + _unless_one_of(_FAMILIES, refuse) + allow,
        # types into the terminal, whose reader is the shell outside (CVE-2017-5226)
        "ioctl": _load_argument(1) + _unless_one_of((_TIOCSTI, _TIOCLINUX), allow) + refuse,
        # a user namespace brings every capability over what is made in it, and the kernel's least tested paths
        "unshare": new_user,
        "clone": new_user,
        # its flags lie in memory, where a filter cannot look; every libc then uses clone
        "clone3": _do(_RETURN, _ENOSYS),
    }


def build_filter(machine: str) -> bytes:
    """The filter for one architecture, as a run of 8-byte instructions."""
    try:
        architecture = ARCHITECTURES[machine]
    except KeyError:
        raise LaunchError(f"exeat knows no system call numbers for {machine}, only for x86_64 and aarch64") from None
    program = _do(_LOAD, _OFFSET_ARCHITECTURE)
    # i386 programs have other numbers; none of them starts rather than one of them is misread.
    program += _do(_IF_EQUAL, architecture.audit, if_true=1) + _do(_RETURN, _KILL)
    program += _do(_LOAD, _OFFSET_NR)
    if architecture.has_x32:
        program += _do(_IF_AT_LEAST, _X32_BIT, if_false=1) + _do(_RETURN, _ENOSYS)
    for numbers in REFUSED.values():
        number = numbers[architecture.column]
        if number is not None:
            program += _do(_IF_EQUAL, number, if_false=1) + _do(_RETURN, _EPERM)
    for name, rule in _rules().items():
        number = CONDITIONAL[name][architecture.column]
        program += _do(_IF_EQUAL, number, if_false=len(rule) // 8) + rule
    return program + _do(_RETURN, _ALLOW)


def install() -> None:
    """Install the filter for this machine; no_new_privs must already be set."""
    syscalls.install_seccomp(build_filter(os.uname().machine))
