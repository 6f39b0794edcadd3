"""Tries on this very host everything that enforcement needs, and says what it costs to lack it."""

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exeat.errors import ExeatError
from exeat.kernel import libbpf
from exeat.kernel.compiling import compile_and_pin
from exeat.kernel.filesystems import bpf_root, mount_point
from exeat.kernel.guest_hooks import guest_text
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.pins import opened
from exeat.kernel.programs import GUEST_PROGRAMS, PROGRAMS, Program
from exeat.kernel.sockets import Diagnosis
from exeat.kernel.source import build_header_tree
from exeat.kernel.tcx import has_tcx
from exeat.model.networks import MAPPED_PREFIX

_NO_CGROUPS = "not mounted, or only a part of it is seen here: in the agent's container say `exeat-agent doctor`"
_NO_TCX = (
    "frames of packet sockets are stopped by nobody: take CAP_NET_RAW from workloads; "
    "guests' interfaces are guarded by clsact filters, which whoever edits tc can remove"
)
_UNTRIED = "not tried: cgroups can only be read here"


@dataclass(frozen=True, slots=True)
class Finding:
    """One feature: whether it is there, and what is lost without it."""

    feature: str
    is_there: bool
    detail: str
    cost: str


def examine() -> Iterator[Finding]:
    """Every feature, one after the other; what cannot be tried for lack of another is missing too."""
    yield _try("cgroup2", "everything: workloads are cgroups", lambda: str(_need(mount_point("cgroup2"), _NO_CGROUPS)))
    yield _try("cgroup.kill", "`exeat run` could not end what a command leaves behind", _cgroup_kill)
    yield _try("BPF file system", "everything: enforcement could not outlive the agent", lambda: str(bpf_root()))
    yield _try("UAPI headers", "everything: programs are compiled on the host (linux-libc-dev)", _headers)
    yield from _programs()
    yield _try("tcx links", _NO_TCX, _tcx)
    yield _try("sock_diag destroy", "revoked connections fall silent instead of failing at once", _destroy)
    yield _try("no cgroup v1 net_cls", "kernels before 5.15 lose a socket's cgroup2 once net_cls is used", _net_cls)


def _try(feature: str, cost: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(feature, True, attempt(), cost)
    except (ExeatError, OSError) as error:
        return Finding(feature, False, str(error), cost)


def _need(value: object | None, complaint: str) -> object:
    if value is None:
        raise ExeatError(complaint)
    return value


def _cgroup_kill() -> str:
    with _own_cgroup() as cgroup:
        if cgroup is None:
            return _UNTRIED
        (cgroup / "cgroup.kill").write_text("1")
    return "works"


@contextmanager
def _own_cgroup() -> Iterator[Path | None]:
    """One to try something on. None: those of this place can only be read, as the agent's container sees the node's."""
    root = str(_need(mount_point("cgroup2"), _NO_CGROUPS))
    try:
        cgroup = Path(tempfile.mkdtemp(prefix="exeat-doctor-", dir=root))
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        yield None
        return
    try:
        yield cgroup
    finally:
        cgroup.rmdir()


def _headers() -> str:
    with tempfile.TemporaryDirectory(prefix="exeat-headers-") as directory:
        build_header_tree(Path(directory))
    return "/usr/include/linux"


def _programs() -> Iterator[Finding]:
    """Loads each program for itself, then attaches one to a cgroup by a pinned link and swaps it."""
    instance = Instance(f"doctor-{os.getpid()}")
    try:
        for part in ("maps", "programs", "links"):
            (instance.directory / part).mkdir(mode=0o700, parents=True)
        refused = compile_and_pin(instance.directory / "maps", instance.directory / "programs")
    except (ExeatError, OSError) as error:
        remove_instance(instance.name)
        yield Finding("BPF compiler and maps", False, str(error), "everything")
        return
    try:
        yield Finding("BPF compiler and maps", True, "BCC compiles, maps are pinned", "everything")
        yield from _loaded(PROGRAMS, refused)
        yield from _guest_programs(instance)
        if not refused:
            yield _try("pinned links", "everything: enforcement would end with the agent", lambda: _links(instance))
    finally:
        instance.remove()


def _loaded(programs: Iterable[Program], refused: Mapping[str, str]) -> Iterator[Finding]:
    for program in programs:
        why = refused.get(program.name)
        yield Finding(f"program {program.name}", why is None, why or "loads", program.guards)


def _guest_programs(instance: Instance) -> Iterator[Finding]:
    directory = instance.directory
    try:
        refused = compile_and_pin(directory / "maps", directory / "programs", GUEST_PROGRAMS, guest_text())
    except (ExeatError, OSError) as error:
        refused = dict.fromkeys((program.name for program in GUEST_PROGRAMS), str(error))
    yield from _loaded(GUEST_PROGRAMS, refused)


def _links(instance: Instance) -> str:
    with _own_cgroup() as cgroup:
        if cgroup is None:
            return _UNTRIED
        instance.attach(cgroup)
        for program in PROGRAMS:
            link = instance.directory / "links" / program.name
            if program.is_linked:
                with opened(link) as link_fd, opened(instance.directory / "programs" / program.name) as fd:
                    libbpf.update_link(link_fd, fd)
    return "attach, pin and swap work"


def _destroy() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        address, port = client.getpeername()
        source, source_port = client.getsockname()
        cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")  # SO_COOKIE
        diagnosis = Diagnosis()
        try:
            ended = diagnosis.destroy_flow(
                MAPPED_PREFIX + socket.inet_aton(address),
                port,
                MAPPED_PREFIX + socket.inet_aton(source),
                source_port,
                cookie,
            )
        finally:
            diagnosis.close()
    if not ended:
        raise ExeatError("the kernel found no such socket")
    return "works"


def _tcx() -> str:
    if not has_tcx():
        raise ExeatError("this kernel has none (Linux 6.6 and later do)")
    return "works"


def _net_cls() -> str:
    text = Path("/proc/self/cgroup").read_text()
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if any(controller in text for controller in ("net_cls", "net_prio")) and release < (5, 15):
        raise ExeatError("net_cls is mounted on a kernel before 5.15; boot with cgroup_no_v1=net_cls,net_prio")
    return "not mounted, or harmless on this kernel"
