"""The few calls of libbpf.so.1 that the agent needs, each an error with errno's words when it fails."""

import ctypes
import errno
import os
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass

from exeat.errors import KernelError

_BEFORE = 1 << 3  # BPF_F_BEFORE: in front of whatever is attached
_BATCH = 4096
_PROGRAMS_MAX = 64  # of one place at an interface: BPF_MPROG_MAX
_MAPS_MAX = 64  # of one program: MAX_USED_MAPS


class _TestRunOptions(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class _BatchOptions(ctypes.Structure):
    """struct bpf_map_batch_opts."""

    _fields_ = (("sz", ctypes.c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64))


class _LinkOptions(ctypes.Structure):
    """The beginning of struct bpf_link_create_opts; libbpf takes the rest for zeros."""

    _fields_ = (("sz", ctypes.c_size_t), ("flags", c_uint32), ("pad", c_uint32))


class _LinkInfo(ctypes.Structure):
    """The beginning of struct bpf_link_info, as it is for a link to an interface."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("program", c_uint32),
        ("pad", c_uint32),
        ("interface", c_uint32),
        ("attach_type", c_uint32),
    )


class _ObjectInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info, and of struct bpf_map_info."""

    _fields_ = (("type", c_uint32), ("id", c_uint32))


class _ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info, as far as the maps."""

    _fields_ = (
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("code_lengths", c_uint32 * 2),
        ("code", c_uint64 * 2),
        ("load_time", c_uint64),
        ("uid", c_uint32),
        ("maps_count", c_uint32),
        ("maps", c_uint64),
    )


@dataclass(frozen=True, slots=True)
class LinkState:
    """What a link to an interface says of itself."""

    program: int
    interface: int  # its index; 0: it has gone


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelError("libbpf.so.1 is missing: apt-get install libbpf1") from error
    library.bpf_obj_get.argtypes = [c_char_p]
    library.bpf_obj_pin.argtypes = [c_int, c_char_p]
    library.bpf_map_update_elem.argtypes = [c_int, c_void_p, c_void_p, c_uint64]
    library.bpf_map_lookup_elem.argtypes = [c_int, c_void_p, c_void_p]
    library.bpf_map_delete_elem.argtypes = [c_int, c_void_p]
    library.bpf_map_get_next_key.argtypes = [c_int, c_void_p, c_void_p]
    library.bpf_map_lookup_batch.argtypes = [c_int] + [c_void_p] * 4 + [POINTER(c_uint32), c_void_p]
    library.bpf_obj_get_info_by_fd.argtypes = [c_int, c_void_p, POINTER(c_uint32)]
    library.bpf_prog_query.argtypes = [c_int, c_int, c_uint32] + [POINTER(c_uint32)] * 3
    library.bpf_map_update_batch.argtypes = [c_int, c_void_p, c_void_p, POINTER(c_uint32), c_void_p]
    library.bpf_map_delete_batch.argtypes = [c_int, c_void_p, POINTER(c_uint32), c_void_p]
    library.bpf_link_create.argtypes = [c_int, c_int, c_int, c_void_p]
    library.bpf_link_detach.argtypes = [c_int]
    library.bpf_link_update.argtypes = [c_int, c_int, c_void_p]
    library.bpf_prog_attach.argtypes = [c_int, c_int, c_int, c_uint32]
    library.bpf_prog_test_run_opts.argtypes = [c_int, c_void_p]
    library.ring_buffer__new.argtypes = [c_int, c_void_p, c_void_p, c_void_p]
    library.ring_buffer__new.restype = c_void_p
    return library


_LIB = _library()


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno() or -result
        raise KernelError(f"{what}: {os.strerror(number)} (errno {number})")
    return result


def pin(fd: int, path: str) -> None:
    """Keeps a program, map or link alive under a path of the BPF file system."""
    _check(_LIB.bpf_obj_pin(fd, path.encode()), f"cannot pin {path}")


def open_pin(path: str) -> int:
    """A new file descriptor for what is pinned at a path."""
    return _check(_LIB.bpf_obj_get(path.encode()), f"cannot open the pin {path}")


def create_link(program: int, target: int, attach_type: int) -> int:
    """Attaches a program to a cgroup by a link of its own."""
    return _check(_LIB.bpf_link_create(program, target, attach_type, None), "cannot attach a program to the cgroup")


def create_interface_link(program: int, index: int, attach_type: int) -> int:
    """Attaches a program to an interface of this network namespace, in front of all that are there."""
    options = _LinkOptions(sz=ctypes.sizeof(_LinkOptions), flags=_BEFORE)
    what = f"cannot attach a program to the interface {index}"
    return _check(_LIB.bpf_link_create(program, index, attach_type, byref(options)), what)


def detach_link(link: int) -> None:
    """Detaches it now: the end of its last pin is only noticed some milliseconds later."""
    _check(_LIB.bpf_link_detach(link), "cannot detach a program")


def link_state(link: int) -> LinkState:
    """What a link to an interface is attached to now."""
    info = _LinkInfo()
    size = c_uint32(ctypes.sizeof(info))
    _check(_LIB.bpf_obj_get_info_by_fd(link, byref(info), byref(size)), "cannot ask a link in the kernel")
    return LinkState(info.program, info.interface)


def program_id(program: int) -> int:
    """The kernel's number of a program."""
    return _object_id(program, "cannot ask a program in the kernel")


def link_id(link: int) -> int:
    """The kernel's number of a link."""
    return _object_id(link, "cannot ask a link in the kernel")


def map_id(fd: int) -> int:
    """The kernel's number of a map."""
    return _object_id(fd, "cannot ask a map in the kernel")


def _object_id(fd: int, what: str) -> int:
    info = _ObjectInfo()
    size = c_uint32(ctypes.sizeof(info))
    _check(_LIB.bpf_obj_get_info_by_fd(fd, byref(info), byref(size)), what)
    return int(info.id)


def program_maps(program: int) -> list[int]:
    """The numbers of the maps that a program uses."""
    ids = (c_uint32 * _MAPS_MAX)()
    info = _ProgramInfo(maps_count=_MAPS_MAX, maps=ctypes.addressof(ids))
    size = c_uint32(ctypes.sizeof(info))
    _check(_LIB.bpf_obj_get_info_by_fd(program, byref(info), byref(size)), "cannot ask a program in the kernel")
    return list(ids[: info.maps_count])


def interface_programs(index: int, attach_type: int) -> list[int]:
    """The numbers of the programs at an interface of this network namespace, in their order; [] where it is gone."""
    count, flags = c_uint32(_PROGRAMS_MAX), c_uint32()
    ids = (c_uint32 * _PROGRAMS_MAX)()
    result = _LIB.bpf_prog_query(index, attach_type, 0, byref(flags), ids, byref(count))
    if result < 0 and ctypes.get_errno() in (errno.ENODEV, errno.ENOENT):
        return []
    _check(result, f"cannot ask what is attached to the interface {index}")
    return list(ids[: count.value])


def update_link(link: int, program: int) -> None:
    """Replaces a link's program with no moment in between."""
    _check(_LIB.bpf_link_update(link, program, None), "cannot replace an attached program")


def attach_program(program: int, target: int, attach_type: int) -> None:
    """Attaches a program to a sockhash, replacing the one that is there."""
    _check(_LIB.bpf_prog_attach(program, target, attach_type, 0), "cannot attach a program to the sockhash")


def update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Writes one entry."""
    _check(_LIB.bpf_map_update_elem(fd, key, value, flags), "cannot write to a kernel table")


def update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Writes many entries at once."""
    if count == 0:
        return
    options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
    done = c_uint32(count)
    _check(_LIB.bpf_map_update_batch(fd, keys, values, byref(done), byref(options)), "cannot write to a kernel table")


def delete(fd: int, key: bytes) -> bool:
    """Removes one entry; whether there was one."""
    return bool(_LIB.bpf_map_delete_elem(fd, key) == 0)


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """One entry's value, if there is one."""
    value = ctypes.create_string_buffer(value_size)
    return value.raw if _LIB.bpf_map_lookup_elem(fd, key, value) == 0 else None


def keys(fd: int, key_size: int) -> list[bytes]:
    """Every key of a map."""
    found: list[bytes] = []
    key = None
    following = ctypes.create_string_buffer(key_size)
    while _LIB.bpf_map_get_next_key(fd, key, following) == 0:
        key = following.raw
        found.append(key)
    return found


def entries(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Every entry of a hash, some thousand at a call: what is written meanwhile may be missing."""
    options = _BatchOptions(sz=ctypes.sizeof(_BatchOptions))
    place = ctypes.create_string_buffer(max(key_size, 4))
    size = _BATCH
    is_first = True
    while True:
        keys, values = ctypes.create_string_buffer(key_size * size), ctypes.create_string_buffer(value_size * size)
        count = c_uint32(size)
        start = None if is_first else place
        result = _LIB.bpf_map_lookup_batch(fd, start, place, keys, values, byref(count), byref(options))
        number = ctypes.get_errno() if result < 0 else 0
        if number == errno.ENOSPC:  # one bucket holds more
            size *= 2
            continue
        if number not in (0, errno.ENOENT):
            _check(result, "cannot read a kernel table")
        raw_keys, raw_values = keys.raw, values.raw
        for at in range(count.value):
            yield (
                raw_keys[at * key_size : (at + 1) * key_size],
                raw_values[at * value_size : (at + 1) * value_size],
            )
        if number == errno.ENOENT:
            return
        is_first = False


def test_run(program: int, data: bytes) -> tuple[int, bytes]:
    """Runs a program on bytes; its return value and the bytes as it left them."""
    out = ctypes.create_string_buffer(len(data) + 256)
    given = ctypes.create_string_buffer(data, len(data))
    options = _TestRunOptions(
        sz=ctypes.sizeof(_TestRunOptions),
        data_in=ctypes.addressof(given),
        data_out=ctypes.addressof(out),
        data_size_in=len(data),
        data_size_out=len(out),
        repeat=1,
    )
    _check(_LIB.bpf_prog_test_run_opts(program, byref(options)), "cannot ask a program in the kernel")
    return options.retval, out.raw[: options.data_size_out]


def possible_cpus() -> int:
    """How many values a per-CPU entry has."""
    return _check(_LIB.libbpf_num_possible_cpus(), "cannot count the CPUs")
