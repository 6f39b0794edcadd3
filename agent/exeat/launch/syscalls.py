"""The system calls that Python 3.11 does not wrap, each raising OSError with the name of what it worked on."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000

# linux/mount.h
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
_MOUNT_ATTR_RDONLY = 0x1

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# Since 5.0 new system calls have one number on every architecture (asm-generic/unistd.h).
_NR_MOUNT_SETATTR = 442
_NR_LANDLOCK_CREATE_RULESET = 444
_NR_LANDLOCK_RESTRICT_SELF = 446
_NR_CLOSE_RANGE = 436

_AT_FDCWD = -100
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_LAST_FD = 0xFFFFFFFF


def _answer(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Mount `source` of type `kind` at `target`."""
    _answer(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()), target)


def make_mount_read_only(path: str) -> None:
    """Make the topmost mount at `path` read-only, in this mount namespace alone; its other flags stay."""
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    result = _libc.syscall(_NR_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), 0, ctypes.byref(attributes), size)
    _answer(result, path)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`."""
    _answer(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`."""
    _answer(_libc.setns(fd, kind), "setns")


def prctl(option: int, argument: int | bytes = 0) -> int:
    """Set or read one property of this process; the unused arguments are 0, as newer options demand."""
    first = argument if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    zero = ctypes.c_ulong(0)
    return _answer(_libc.prctl(option, first, zero, zero, zero), f"prctl option {option}")


def install_seccomp(program: bytes) -> None:
    """Install a classic BPF program of 8-byte instructions as this thread's seccomp filter."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    seccomp_mode_filter = ctypes.c_ulong(2)
    head = Program(len(program) // 8, program)
    zero = ctypes.c_ulong(0)
    result = _libc.prctl(PR_SET_SECCOMP, seccomp_mode_filter, ctypes.byref(head), zero, zero)
    _answer(result, "seccomp")


def clear_capabilities() -> None:
    """Empty this thread's effective, permitted and inheritable capability sets."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    empty = (ctypes.c_uint32 * 6)()
    _answer(_libc.capset(ctypes.byref(header), ctypes.byref(empty)), "capset")


def close_fds_from(first: int) -> None:
    """Close every descriptor from `first` on, also those above the soft limit."""
    result = _libc.syscall(_NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(_LAST_FD), ctypes.c_uint(0))
    _answer(result, "close_range")


def landlock_version() -> int:
    """The Landlock version of this kernel, 0 if it has none or has it switched off."""
    no_attributes, no_size = None, ctypes.c_size_t(0)
    result = _libc.syscall(
        _NR_LANDLOCK_CREATE_RULESET, no_attributes, no_size, ctypes.c_uint(_LANDLOCK_CREATE_RULESET_VERSION)
    )
    return max(0, int(result))


def landlock_scope(scoped: int) -> None:
    """Enter a Landlock domain that restricts only the scopes in `scoped`; needs version 6 (Linux 6.12)."""
    attributes = (ctypes.c_uint64 * 3)(0, 0, scoped)  # handled_access_fs, handled_access_net, scoped
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    fd = _libc.syscall(_NR_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), size, ctypes.c_uint(0))
    _answer(fd, "landlock_create_ruleset")
    try:
        _answer(_libc.syscall(_NR_LANDLOCK_RESTRICT_SELF, fd, ctypes.c_uint(0)), "landlock_restrict_self")
    finally:
        os.close(fd)
