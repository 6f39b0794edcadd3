"""Run as a program of its own: compiles with BCC, loads, pins, exits. BCC's 120 MB of memory go with it.

Takes a JSON request on standard input (pins, programs), answers with a JSON object on standard output: {"ok": true,
"refused": {program: why}} or {"error": "..."}. The only module of exeat that imports bcc.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from exeat.errors import ExeatError, KernelError
from exeat.kernel import libbpf
from exeat.kernel.btf import member_offsets
from exeat.kernel.source import build_header_tree

_PR_SET_PDEATHSIG = 1
_TREE = "exeat-headers-"
_OFFSETS = (  # the C text has them as TCP_SOCK_WRITE_SEQ
    "tcp_sock.write_seq", "sk_buff.head", "sk_buff.csum_start", "sk_buff._skb_refdst",
    "task_struct.tgid", "task_struct.comm", "task_struct.cred", "cred.uid",
)  # fmt: skip
_IN_MEMORY = Path("/run")  # a tmpfs


def _load(request: dict[str, Any], headers: tuple[str, ...]) -> dict[str, str]:
    """Loads and pins what it can; what was refused, and how.

    LLVM 19 (Debian 13) makes code of which the verifier sees no end, unless it is told to do less; what LLVM 14 makes
    then is refused for other reasons. So what was refused is made once more, with less.
    """
    refused = _load_some(request, request["programs"], headers)
    if refused:
        again = {name: types for name, types in request["programs"].items() if name in refused}
        still = _load_some(request, again, (*headers, "-O1"))
        refused = {name: why for name, why in refused.items() if name in still}
    return refused


def _load_some(request: dict[str, Any], programs: dict[str, Any], more: tuple[str, ...]) -> dict[str, str]:
    from bcc import BPF

    flags = [
        f'-DPIN_DIR="{request["map_directory"]}"',
        *(f"-D{member.replace('.', '_').upper()}={offset}" for member, offset in member_offsets(*_OFFSETS).items()),
        "-Wno-macro-redefined",
        "-Wno-unused-command-line-argument",
        *more,
    ]
    try:
        module = BPF(text=request["text"], cflags=flags)
    except Exception as error:  # noqa: BLE001 - BCC raises bare Exception, with the story already on stderr
        raise KernelError(f"the BPF programs do not compile here: {error}") from error

    def load(name: str, program_type: int, attach_type: int) -> Exception | None:
        try:
            function = module.load_func(name, program_type, attach_type=attach_type)
        except Exception as error:  # noqa: BLE001 - as above
            return error
        libbpf.pin(function.fd, f"{request['program_directory']}/{name}")
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the verifier takes a second in all, and runs on all cores
        loading = {name: pool.submit(load, name, *types) for name, types in programs.items()}
        refusals = {name: loaded.result() for name, loaded in loading.items()}
    return {name: str(error) for name, error in refusals.items() if error}


def _die_with_parent() -> None:
    """A compiler whose parent was killed would go on to pin what nobody removes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _sweep(where: Path) -> None:
    """Removes what a compiler left that was killed."""
    for tree in where.glob(f"{_TREE}*"):
        if not Path("/proc", tree.name.removeprefix(_TREE).partition("-")[0]).exists():
            shutil.rmtree(tree, ignore_errors=True)


def main() -> int:
    """Answers one request."""
    _die_with_parent()
    request = json.load(sys.stdin)
    answer_to = os.dup(1)
    os.dup2(2, 1)  # BCC and clang write where they like
    where = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    if where:
        _sweep(where)
    with tempfile.TemporaryDirectory(prefix=f"{_TREE}{os.getpid()}-", dir=where) as headers:
        answer: dict[str, Any] = {"ok": True}
        try:
            flags = build_header_tree(Path(headers))
            os.environ["BCC_KERNEL_SOURCE"] = headers
            answer["refused"] = _load(request, flags)
        except ImportError:
            answer = {
                "error": "BCC is missing for this Python: apt-get install python3-bpfcc, and use a virtual "
                "environment of /usr/bin/python3 made with --system-site-packages"
            }
        except ExeatError as error:
            answer = {"error": str(error)}
    with contextlib.closing(os.fdopen(answer_to, "w")) as out:
        json.dump(answer, out)
    return 0 if "ok" in answer else 1


if __name__ == "__main__":
    sys.exit(main())
