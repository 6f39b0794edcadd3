"""A clean Debian root with systemd, for machines to boot from; made once, kept under build/, never written to again.

EXEAT_DEB_SUITE and EXEAT_DEBIAN_MIRROR name another release and another mirror. What our packages depend on lies in
apt's cache, not installed: apt finds it there without a network.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SUITE = os.environ.get("EXEAT_DEB_SUITE", "bookworm")
_MIRROR = os.environ.get("EXEAT_DEBIAN_MIRROR", "http://deb.debian.org/debian")
_COMPONENTS = {"noble": "main,universe"}
_BASE = ("systemd", "systemd-sysv", "dbus")
_CACHE = REPOSITORY / "build" / "roots"
_LIMIT_S = 400
# dpkg's fsync after each file protects nothing here.
_PREPARED = {"etc/dpkg/dpkg.cfg.d/test": "force-unsafe-io\n", "etc/hostname": "deb\n"}


def root_of_the_suite() -> Path:
    """The root's directory, or a skip with a sentence."""
    wanted = _dependencies()
    key = hashlib.sha256(f"{SUITE} {_MIRROR} {_BASE} {wanted} {_PREPARED}".encode()).hexdigest()[:12]
    root = _CACHE / f"deb-{SUITE}-{key}"
    if root.exists():
        return root
    if shutil.which("mmdebstrap") is None:
        pytest.skip("there is no mmdebstrap here: apt-get install mmdebstrap")
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            draft = root.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            _make(draft, wanted)
            draft.rename(root)
    return root


def _make(root: Path, wanted: list[str]) -> None:
    made = subprocess.run(
        [
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_BASE)}",
            f"--components={_COMPONENTS.get(SUITE, 'main')}", "--format=directory", SUITE, str(root), _MIRROR,
        ],
        capture_output=True, text=True, timeout=_LIMIT_S, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"no root of {SUITE} could be made from {_MIRROR}: {made.stderr[-300:]}")
    for name, text in _PREPARED.items():
        (root / name).write_text(text)
    fetch = f"apt-get update -qq && apt-get install -qq --no-install-recommends --download-only {' '.join(wanted)}"
    subprocess.run(
        ["chroot", root, "sh", "-c", fetch],
        check=True, capture_output=True, timeout=_LIMIT_S, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip


def _dependencies() -> list[str]:
    control = (REPOSITORY / "packaging/deb/exeat/control").read_text()
    found = re.search(r"^Depends: (.*)$", control, re.MULTILINE)
    assert found
    return sorted({one.split()[0] for one in found[1].split(",")})
