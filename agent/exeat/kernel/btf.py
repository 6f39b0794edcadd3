"""Where this very kernel keeps a field, from the types it publishes: BCC compiles without knowing them."""

import ctypes
from ctypes import c_char_p, c_uint32, c_void_p

from exeat.errors import KernelError

_STRUCT, _UNION = 4, 5  # BTF_KIND_STRUCT, BTF_KIND_UNION
_TYPE_BYTES = _MEMBER_BYTES = 12  # struct btf_type, struct btf_member: three numbers each


def member_offsets(*members: str) -> dict[str, int]:
    """The offsets in bytes of fields, each written as struct.field; also of those in unnamed structs and unions."""
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
        return {member: _offset(library, types, *member.split(".")) for member in members}
    finally:
        library.btf__free(types)


def _offset(library: ctypes.CDLL, types: int, structure: str, field: str) -> int:
    number = library.btf__find_by_name_kind(types, structure.encode(), _STRUCT)
    if number < 0:
        raise KernelError(f"this kernel's types know no struct {structure}")
    found = _offset_in(library, types, number, field.encode())
    if found is None:
        raise KernelError(f"this kernel's struct {structure} has no {field}")
    return found


def _offset_in(library: ctypes.CDLL, types: int, number: int, field: bytes) -> int | None:
    at = library.btf__type_by_id(types, number)
    info = (c_uint32 * 3).from_address(at)[1]
    if info >> 24 & 0x1F not in (_STRUCT, _UNION):
        return None
    for index in range(info & 0xFFFF):
        name, kind, bits = (c_uint32 * 3).from_address(at + _TYPE_BYTES + index * _MEMBER_BYTES)
        offset = ((bits & 0xFFFFFF) if info >> 31 else bits) // 8
        word = library.btf__name_by_offset(types, name)
        if word == field:
            return int(offset)
        within = None if word else _offset_in(library, types, kind, field)
        if within is not None:
            return int(offset + within)
    return None
