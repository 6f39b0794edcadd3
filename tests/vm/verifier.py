"""Prints how much of the verifier's budget each program takes on this kernel: a million instructions, walked."""

import ctypes
import os
import sys

from exeat.kernel.compiling import compile_and_pin
from exeat.kernel.guest_hooks import guest_text
from exeat.kernel.instance import Instance
from exeat.kernel.pins import opened
from exeat.kernel.programs import GUEST_PROGRAMS, PROGRAMS

BUDGET = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
NEAR = 0.75  # the same text takes a kernel twice what it takes another, and a harmless edit has doubled it
BPF_OBJ_GET_INFO_BY_FD, VERIFIED_INSNS_AT = 15, 216  # linux/bpf.h; the field came with Linux 5.16


def verified_instructions(fd: int) -> int:
    """How many instructions the verifier walked to accept a loaded program."""
    libc = ctypes.CDLL(None, use_errno=True)
    info = ctypes.create_string_buffer(256)
    attribute = ctypes.create_string_buffer(
        fd.to_bytes(4, "little") + len(info).to_bytes(4, "little") + ctypes.addressof(info).to_bytes(8, "little"), 128
    )
    if libc.syscall(321, BPF_OBJ_GET_INFO_BY_FD, attribute, 16) != 0:
        raise OSError(ctypes.get_errno(), "bpf(BPF_OBJ_GET_INFO_BY_FD)")
    return int.from_bytes(info.raw[VERIFIED_INSNS_AT : VERIFIED_INSNS_AT + 4], "little")


def main() -> int:
    """One line for each program, also for one that is refused; 1 if there is one."""
    instance = Instance(f"verifier-{os.getpid()}")
    maps, programs = instance.directory / "maps", instance.directory / "programs"
    try:
        for directory in (maps, programs):
            directory.mkdir(mode=0o700, parents=True)
        refused = compile_and_pin(maps, programs)
        refused |= compile_and_pin(maps, programs, GUEST_PROGRAMS, guest_text())
        for program in (*PROGRAMS, *GUEST_PROGRAMS):
            if program.name in refused:
                print(f"verifier  {program.name:18} refused: {refused[program.name]}")
                continue
            with opened(programs / program.name) as fd:
                walked = verified_instructions(fd)
            near = "  <- near refusal" if walked > NEAR * BUDGET else ""
            print(f"verifier  {program.name:18} {walked:8} instructions, {100 * walked / BUDGET:5.1f} %{near}")
    finally:
        instance.remove()
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
