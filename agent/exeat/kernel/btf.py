"""Where this very kernel keeps a field, from the types it publishes: BCC compiles without knowing them."""

import ctypes
from ctypes import c_char_p, c_uint32, c_void_p

from exeat.errors import KernelError

_STRUCT = 4  # BTF_KIND_STRUCT
_TYPE_BYTES = _MEMBER_BYTES = 12  # struct btf_type, struct btf_member: three numbers each


def member_offset(structure: str, member: str) -> int:
    """A field's offset in bytes."""
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    library.btf__load_vmlinux_btf.restype = c_void_p
    library.btf__find_by_name_kind.argtypes = [c_void_p, c_char_p, c_uint32]
    library.btf__type_by_id.argtypes = [c_void_p, c_uint32]
    library.btf__type_by_id.restype = c_void_p
    library.btf__name_by_offset.argtypes = [c_void_p, c_uint32]
    library.btf__name_by_offset.restype = c_char_p
    library.btf__free.argtypes = [c_void_p]
    types = library.btf__load_vmlinux_btf()
    if not types:
        raise KernelError("this kernel publishes no types (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF")
    try:
        number = library.btf__find_by_name_kind(types, structure.encode(), _STRUCT)
        if number < 0:
            raise KernelError(f"this kernel's types know no struct {structure}")
        at = library.btf__type_by_id(types, number)
        info = (c_uint32 * 3).from_address(at)[1]
        for index in range(info & 0xFFFF):
            name, _, bits = (c_uint32 * 3).from_address(at + _TYPE_BYTES + index * _MEMBER_BYTES)
            if library.btf__name_by_offset(types, name) == member.encode():
                return ((bits & 0xFFFFFF) if info >> 31 else bits) // 8
    finally:
        library.btf__free(types)
    raise KernelError(f"this kernel's struct {structure} has no {member}")
