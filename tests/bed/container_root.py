"""The root file system of the images that tests run: busybox, and room for the host's own /usr.

Made here, because no registry is asked. With /usr of the host mounted over it (read-only) the same image has all that
the host has: curl, dig, python3.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")  # of Debian's busybox-static
_APPLETS = ("cat", "echo", "env", "false", "id", "ip", "ls", "nc", "nslookup", "sh", "sleep", "true", "wget")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
_DIRECTORIES = ("usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "tmp", "run", "var", "proc", "sys", "dev")


def root_tar(mark: str = "") -> bytes:
    """As a layer. Other marks make other images."""
    busybox = BUSYBOX.read_bytes()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path in _DIRECTORIES:
            tar.addfile(_entry(path, tarfile.DIRTYPE))
        for path, target in _LINKS.items():
            tar.addfile(_entry(path, tarfile.SYMTYPE, target))
        tar.addfile(_entry("usr/bin/busybox", tarfile.REGTYPE, size=len(busybox)), io.BytesIO(busybox))
        for applet in _APPLETS:
            tar.addfile(_entry(f"usr/bin/{applet}", tarfile.SYMTYPE, "busybox"))
        passwd = b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
        for path, content in {"etc/passwd": passwd, "etc/mark": mark.encode()}.items():
            tar.addfile(_entry(path, tarfile.REGTYPE, size=len(content)), io.BytesIO(content))
    return made.getvalue()


def _entry(path: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.type, entry.linkname, entry.size = kind, target, size
    entry.mode = 0o1777 if path == "tmp" else 0o755
    return entry
