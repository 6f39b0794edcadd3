"""The C text that BCC compiles: our files joined into one, and a tree of headers where the kernel's are missing."""

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from exeat.errors import KernelError

_INCLUDE = re.compile(r'^#include "([^"]+)"\s*$')
_UAPI = Path("/usr/include")


def bpf_directory() -> Path:
    """Where the C files are: beside this module in a wheel, at the top of a checkout."""
    for candidate in (Path(__file__).parent / "bpf", Path(__file__).parents[3] / "bpf"):
        if (candidate / "enforcer.c").is_file():
            return candidate
    raise KernelError(f"exeat is installed without its BPF sources (looked beside {__file__}): install it again")


def _flatten(path: Path, seen: set[Path]) -> Iterator[str]:
    if path in seen:
        return
    seen.add(path)
    yield f'#line 1 "{path.name}"\n'
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        included = _INCLUDE.match(line)
        if included:
            yield from _flatten(path.parent / included[1], seen)
            yield f'#line {number + 1} "{path.name}"\n'
        elif line.strip() == "#pragma once":
            yield "\n"
        else:
            yield line


def joined_source(main: str = "enforcer.c") -> str:
    """All of the program in one text: BCC rewrites map accesses in the main file only. Errors keep file and line."""
    return "".join(_flatten(bpf_directory() / main, set()))


def fingerprint(text: str) -> str:
    """Tells one version of the programs from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_header_tree(directory: Path) -> tuple[str, ...]:
    """Makes a tree that BCC takes for kernel headers, of our stubs; by these flags the system's come after it."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    arch = _UAPI / multiarch / "asm"
    if not (_UAPI / "linux" / "bpf.h").is_file() or not arch.is_dir():
        raise KernelError("the headers in /usr/include/linux are missing: apt-get install linux-libc-dev")
    stubs = bpf_directory() / "stubs" / "include"
    for stub in stubs.rglob("*.h"):
        target = directory / "include" / stub.relative_to(stubs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(stub)
    after = directory / "after" / "uapi"  # by two names, as kernel headers are: <linux/ip.h>, <uapi/linux/ip.h>
    after.mkdir(parents=True)
    for name, there in (("linux", _UAPI / "linux"), ("asm", arch), ("asm-generic", _UAPI / "asm-generic")):
        (after / name).symlink_to(there)
    return "-idirafter", str(after), "-idirafter", str(after.parent)
