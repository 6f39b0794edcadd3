"""The command's view of the file system: a private mount namespace in which cgroups are read-only, and the sockets of
daemons that would reach the network for it are out of sight. masked_sockets.py says what, and why.
"""

import glob
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from exeat.errors import LaunchError
from exeat.launch import masked_sockets, syscalls
from exeat.launch.cgroup import Mount, read_mounts
from exeat.launch.identity import Identity

_INERT = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_OURS = "/run/exeat"  # always there: runs.py made it
_EMPTY_FILE = f"{_OURS}/masked"

Keep = Callable[[os.DirEntry[str]], bool]


def build_view(identity: Identity) -> None:
    """Make the calling process's mount namespace the command's. Needs a PID namespace of its own for /proc."""
    working_directory = os.getcwd()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # Private, not slave: a mount that appears outside later, such as a user's new /run/user/UID, must not come in.
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    masked = _find(masked_sockets.MASKED, identity) + _find(masked_sockets.MASKED_SOCKETS, identity, only_sockets=True)
    masked += _find(masked_sockets.LINKS, identity, only_sockets=True)
    rebuilt = [path for rule in masked_sockets.REBUILT for path in _every_view(rule.directory)]
    scratch = [path for rule in masked_sockets.SCRATCH for path in _every_view(rule.pattern)]
    for path in rebuilt:
        _rebuild(path, _is_no_socket)
    if identity.is_root:
        _rebuild("/dev", _is_root_device)
    _mask_directory(_OURS, {"masked": 0o000})
    for path in masked:
        if path != _OURS:
            _mask(path)
    for path in scratch:
        _make_scratch(path, identity)
    _make_proc()
    _restrict_file_systems()
    try:
        # By name, not by the descriptor we came with, which may look underneath a mask.
        os.chdir(working_directory)
    except OSError as error:
        raise LaunchError(
            f"the working directory {working_directory} is out of the command's sight ({error.strerror}); "
            "start it in another directory"
        ) from None


def _find(rules: Iterable[masked_sockets.Masked], identity: Identity, only_sockets: bool = False) -> list[str]:
    paths: list[str] = []
    for rule in rules:
        if rule.pattern.startswith("~") and not identity.home.startswith("/"):
            continue
        pattern = rule.pattern.replace("~", glob.escape(identity.home.rstrip("/")), 1)
        for match in glob.glob(pattern, include_hidden=True):
            if not only_sockets or _is_socket(match):
                paths += _every_view(match)
    return list(dict.fromkeys(paths))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _every_view(path: str) -> list[str]:
    """The path without symbolic links, and wherever else the same file is mounted (bind mounts of /run in a chroot)."""
    real = os.path.realpath(path)
    if not os.path.exists(real):
        return []
    mounts = read_mounts()
    shown = _mount_id(real)
    home = next((mount for mount in mounts if mount.mount_id == shown), None)
    if home is None:
        return [real]
    inside = _below(_join(home.root, os.path.relpath(real, home.path)), "/")
    views = [real]
    for mount in mounts:
        if mount.device == home.device and _is_below(inside, mount.root):
            view = _join(mount.path, _below(inside, mount.root))
            if view not in views and _same_file(view, real):
                views.append(view)
    return views


def _join(directory: str, name: str) -> str:
    return os.path.normpath(os.path.join(directory, name.lstrip("/")))


def _below(path: str, directory: str) -> str:
    return path if directory == "/" else os.path.relpath(path, directory)


def _is_below(path: str, directory: str) -> bool:
    return directory == "/" or path == directory or path.startswith(directory + "/")


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _mount_id(path: str) -> int:
    """The id of the mount that this path shows, which tells a covered mount from the one on top."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(fd)


def _mask(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return  # a rebuilt directory has already lost it
    if stat.S_ISDIR(mode):
        _mask_directory(path)
    elif stat.S_ISSOCK(mode):
        syscalls.mount(_EMPTY_FILE, path, "", syscalls.MS_BIND)


def _mask_directory(path: str, files: dict[str, int] | None = None) -> None:
    syscalls.mount("exeat", path, "tmpfs", _INERT, "size=16k,mode=0555")
    for name, mode in (files or {}).items():
        os.close(os.open(os.path.join(path, name), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    syscalls.make_mount_read_only(path)


def _make_scratch(path: str, identity: Identity) -> None:
    if not os.path.isdir(path):
        return
    mode = stat.S_IMODE(os.stat(path).st_mode)
    own = os.path.join(path, str(identity.uid))
    had_own = os.path.isdir(own)
    syscalls.mount("exeat", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, f"mode={mode:o},size=10%")
    if had_own:
        os.mkdir(own, 0o700)
        os.chown(own, identity.uid, identity.gid)


def _is_no_socket(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() or entry.is_dir() or entry.is_file()


def _is_root_device(entry: os.DirEntry[str]) -> bool:
    terminals = {os.ttyname(fd) for fd in (0, 1, 2) if os.isatty(fd)}
    return entry.name in masked_sockets.ROOT_DEVICES or entry.is_symlink() or entry.path in terminals


def _rebuild(path: str, keep: Keep) -> None:
    """Put a new directory over `path`, into which the entries to keep are bound from the old one."""
    if not os.path.isdir(path):
        return
    old = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        entries = [entry for entry in os.scandir(path) if keep(entry)]
        links = {entry.name: os.readlink(entry.path) for entry in entries if entry.is_symlink()}
        modes = {entry.name: entry.stat().st_mode for entry in entries if entry.name not in links}
        before = os.fstat(old)
        mode = f"mode={stat.S_IMODE(before.st_mode):o}"
        syscalls.mount("exeat", path, "tmpfs", syscalls.MS_NOSUID, mode)
        os.chown(path, before.st_uid, before.st_gid)
        for name, target in links.items():
            os.symlink(target, os.path.join(path, name))
        for name, kind in modes.items():
            target = os.path.join(path, name)
            if stat.S_ISDIR(kind):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))
            _bind(f"/proc/self/fd/{old}/{name}", target)
    finally:
        os.close(old)


def _bind(source: str, target: str) -> None:
    try:
        syscalls.mount(source, target, "", syscalls.MS_BIND | syscalls.MS_REC)
    except FileNotFoundError:
        return  # gone since we looked; what stands in its place is empty


def _make_proc() -> None:
    syscalls.mount("proc", "/proc", "proc", _INERT)
    for path in masked_sockets.READ_ONLY_PROC:
        if os.path.exists(path):
            syscalls.mount(path, path, "", syscalls.MS_BIND)
            syscalls.make_mount_read_only(path)


def _restrict_file_systems() -> None:
    for mount in read_mounts():
        hidden = mount.kind in masked_sockets.HIDDEN_FILE_SYSTEMS and not _is_below(mount.path, "/proc")
        read_only = mount.kind in masked_sockets.READ_ONLY_FILE_SYSTEMS
        if (hidden or read_only) and _is_on_top(mount):
            if read_only:
                syscalls.make_mount_read_only(mount.path)
            elif os.path.isdir(mount.path):
                _mask_directory(mount.path)
            else:
                syscalls.mount(_EMPTY_FILE, mount.path, "", syscalls.MS_BIND)


def _is_on_top(mount: Mount) -> bool:
    try:
        return _mount_id(mount.path) == mount.mount_id
    except OSError:
        return False  # under a mask: no path leads there
