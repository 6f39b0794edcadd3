"""The guest's root file system: a cpio archive of this machine's own programs with their libraries."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
MODULES = (  # in the order in which they need each other
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
    "failover", "net_failover", "virtio_net", "virtio_console",
)  # fmt: skip
PROGRAMS = ("curl", "dig")
NAMES = {"/etc/nsswitch.conf": "hosts: files dns\n", "/etc/hosts": "127.0.0.1 localhost\n"}
_TRAILER = "TRAILER!!!"


@dataclass
class Archive:
    """A cpio archive that grows by entry; newc, of Linux's driver-api/early-userspace/buffer-format.rst."""

    parts: list[bytes] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """A file and the directories above it."""
        self._add(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def directory(self, name: str) -> None:
        """A directory and those above it."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def finish(self) -> bytes:
        """The whole."""
        self._entry(_TRAILER, 0, b"")
        return b"".join(self.parts)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        name = name.strip("/")
        if name in self._names:
            return
        self._names.add(name)
        above = name.rpartition("/")[0]
        if above:
            self.directory(above)
        self._entry(name, mode, content)

    def _entry(self, name: str, mode: int, content: bytes) -> None:
        words = (len(self._names), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % word for word in words) + name.encode() + b"\0"
        self.parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]


def build_root(kernel: Path, directory: Path, certificates: Path) -> Path:
    """An initramfs for this kernel, made in the directory; the certificates are at /ca.pem."""
    archive = Archive()
    for name in ("proc", "sys", "dev", "tmp"):
        archive.directory(name)
    archive.file("init", (HERE / "init.sh").read_bytes(), 0o755)
    archive.file("ca.pem", certificates.read_bytes())
    for name, content in NAMES.items():
        archive.file(name, content.encode())
    _add_busybox(archive)
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found, program
        _add_program(archive, f"/bin/{program}", Path(found))
    _add_program(archive, "/bin/probe", _compile(HERE / "probe.c", directory))
    _add_modules(archive, kernel)
    root = directory / "root.cpio"
    root.write_bytes(archive.finish())
    return root


def _add_busybox(archive: Archive) -> None:
    busybox = shutil.which("busybox")
    assert busybox
    archive.file("/bin/busybox", Path(busybox).read_bytes(), 0o755)
    for name in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if name not in PROGRAMS:
            archive.link(f"/bin/{name}", "busybox")


def _add_program(archive: Archive, name: str, program: Path) -> None:
    archive.file(name, program.read_bytes(), 0o755)
    said = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for library in re.findall(r"(/\S+) \(0x", said):
        archive.file(library, Path(library).read_bytes(), 0o755)


def _compile(source: Path, directory: Path) -> Path:
    program = directory / source.stem
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, source], check=True)
    return program


def _add_modules(archive: Archive, kernel: Path) -> None:
    files = {path.stem: path for path in (kernel / "lib/modules").rglob("*.ko")}
    for module in MODULES:
        archive.file(f"/modules/{module}.ko", files[module].read_bytes())
    archive.file("/modules/order", "\n".join(MODULES).encode())
