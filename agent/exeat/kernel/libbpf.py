"""The few calls of libbpf.so.1 that the agent needs, each an error with errno's words when it fails."""

import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_uint64, c_void_p

from exeat.errors import KernelError


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
    library.bpf_map_update_batch.argtypes = [c_int, c_void_p, c_void_p, POINTER(c_uint32), c_void_p]
    library.bpf_map_delete_batch.argtypes = [c_int, c_void_p, POINTER(c_uint32), c_void_p]
    library.bpf_link_create.argtypes = [c_int, c_int, c_int, c_void_p]
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
