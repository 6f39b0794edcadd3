"""A real guest: qemu with Debian's kernel, emulated, behind a tap, and a shell in it for the test.

    with boot(bed, Plug("tap0", MAC), setting, directory) as guest:
        assert guest.sh("curl -s https://shop.test/").text == "I am shop.test\\n"

The network card has checksum and segmentation offload, as everybody's has: what leaves the tap has partial checksums
and segments of up to 64 KiB.
"""

from __future__ import annotations

import base64
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from bed import Bed, start_in
from guest.real.root import build_root

HERE = Path(__file__).parent
QEMU = "qemu-system-x86_64"
BOOT_LIMIT_S = 60.0
FETCH_LIMIT_S = 120.0
COMMAND_LIMIT_S = 20.0
MEMORY_MB = 384


@dataclass(frozen=True)
class Plug:
    """Where the guest's network card ends, and its address there."""

    tap: str
    mac: str


@dataclass(frozen=True)
class Setting:
    """How the guest sets up its interface. The names are those of init.sh."""

    address4: str
    address6: str
    gateway4: str
    gateway6: str
    resolver: str


@dataclass(frozen=True)
class Said:
    """A command that has ended in the guest: all that it wrote, to whichever end."""

    status: int
    text: str


@dataclass
class Machine:
    """A guest that runs, from boot() to its end."""

    process: subprocess.Popen[str]
    port: socket.socket
    papers: tuple[Path, ...]  # what the emulator complained of, and what the console said
    boot_s: float = 0.0
    own_boot_s: float = 0.0  # by its own clock
    _number: int = 0
    _heard: bytes = b""

    def sh(self, command: str, within_s: float = COMMAND_LIMIT_S) -> Said:
        """Run a shell command as the guest's root, to its end."""
        self._number += 1
        self.port.sendall(f"{self._number} {base64.b64encode(command.encode()).decode()}\n".encode())
        number = 0
        while number != self._number:  # an answer to what was given up
            counted, status, said = self._line(within_s, command).split(" ")
            number = int(counted)
        return Said(int(status), base64.b64decode(said).decode(errors="replace"))

    def wait_for_boot(self) -> None:
        """Returns when the guest takes commands."""
        began = time.monotonic()
        _, _, uptime = self._line(BOOT_LIMIT_S, "boot").split(" ")
        self.boot_s, self.own_boot_s = time.monotonic() - began, float(base64.b64decode(uptime))

    def _line(self, within_s: float, what: str) -> str:
        deadline = time.monotonic() + within_s
        while b"\n" not in self._heard:
            self.port.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self.port.recv(1 << 16)
            except TimeoutError:
                raise TimeoutError(f"the guest was not done with {what!r} in {within_s} s{self.last_words()}") from None
            if not part:
                raise RuntimeError(f"the guest ended during {what!r}{self.last_words()}")
            self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def last_words(self) -> str:
        """The end of what was written about it."""
        said = [f"{paper.name}: {paper.read_text(errors='replace')[-3000:]}" for paper in self.papers if paper.exists()]
        return "; " + "; ".join(said)


def missing_for_a_guest() -> str | None:
    """Why no guest can be started here, as a sentence for a skip; None if one can."""
    if platform.machine() != "x86_64":
        return "a real guest is emulated for x86-64 only"
    for program, package in ((QEMU, "qemu-system-x86"), ("busybox", "busybox-static"), ("dig", "bind9-dnsutils")):
        if shutil.which(program) is None:
            return f"a real guest needs the program {program!r} (Debian's package {package})"
    if not Path("/dev/net/tun").exists():
        return "a real guest needs /dev/net/tun for its tap"
    said = kernel_for_guests()
    return said if isinstance(said, str) else None


@cache
def kernel_for_guests() -> Path | str:
    """The directory of the kernel, fetched if need be, or why there is none."""
    try:
        done = subprocess.run([HERE / "fetch.sh"], capture_output=True, text=True, timeout=FETCH_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"a real guest needs Debian's cloud kernel, which could not be fetched in {FETCH_LIMIT_S} s"
    if done.returncode != 0:
        return f"a real guest needs Debian's cloud kernel, which could not be fetched: {done.stderr.strip()}"
    return Path(done.stdout.strip())


@contextmanager
def boot(bed: Bed, plug: Plug, setting: Setting, directory: Path) -> Iterator[Machine]:
    """Start a guest behind a tap of the bed's client namespace, and end it."""
    kernel = kernel_for_guests()
    assert isinstance(kernel, Path), kernel
    root = build_root(kernel, directory, bed.authority.ca_file)
    ours, theirs = socket.socketpair()
    console, complaints = directory / "console", directory / "complaints"
    with ours, theirs, complaints.open("w") as out:
        words = _command(kernel, root, plug, setting, theirs.fileno(), console)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        process = start_in(bed, words, pass_fds=[theirs.fileno()], **quiet)
        theirs.close()
        try:
            machine = Machine(process, ours, (complaints, console))
            machine.wait_for_boot()
            yield machine
        finally:
            process.kill()
            process.wait()
            bed.disown(process)


def _command(kernel: Path, root: Path, plug: Plug, setting: Setting, port: int, console: Path) -> list[str]:
    image = next((kernel / "boot").glob("vmlinuz-*"))
    said = " ".join(f"guest_{name}={value}" for name, value in asdict(setting).items())
    return [
        QEMU,
        # qemu's own microvm has no clock to fall back on: where the machine is busy, its kernel stops at times.
        *("-M", "pc", "-accel", "tcg", "-cpu", "qemu64", "-smp", "1"),
        *("-m", str(MEMORY_MB), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-kernel", str(image), "-initrd", str(root)),
        *("-append", f"console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off {said}"),
        *("-serial", f"file:{console}"),
        *("-netdev", f"tap,id=net,ifname={plug.tap},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,romfile=,netdev=net,mac={plug.mac}"),
        *("-chardev", f"socket,id=port,fd={port}", "-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=port,name=port"),
    ]
