"""Our packages: as packaging/deb/build.py makes them, and the next version, whose programs are others."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.deb_root import REPOSITORY
from exeat import __version__

BUILD = REPOSITORY / "packaging/deb/build.py"
NEXT = f"{__version__}+next1"
_LIMIT_S = 400
_PACKED = ("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build")


def build(out: Path, *options: str) -> list[Path]:
    """Builds exeat and exeat-plane, in this order."""
    done = subprocess.run(
        [sys.executable, str(BUILD), *options, str(out)],
        check=False, capture_output=True, text=True, timeout=_LIMIT_S, env={**os.environ, "SOURCE_DATE_EPOCH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [Path(line) for line in done.stdout.splitlines()]


def next_version(package: Path, out: Path) -> Path:
    """The same with another version; of exeat, also another program in the kernel and other default settings."""
    tree = out / f"{package.stem}-tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True, timeout=_LIMIT_S)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(__version__, NEXT))
    own = tree / "usr/lib/exeat/common/exeat"
    if own.exists():
        _replace(own / "kernel/bpf/hook_packet.h", "HEADERS_MAX = 100", "HEADERS_MAX = 101")
        _replace(own / "__init__.py", f'"{__version__}"', f'"{NEXT}"')
        _replace(tree / "etc/exeat/exeat.yaml", "keep: 8", "keep: 9")
        sums = tree / "DEBIAN/md5sums"
        sums.write_text("".join(line for line in sums.open() if "bpf/hook_packet.h" not in line))
    name = re.sub(r"_[^_]*_", f"_{NEXT}_", package.name)
    subprocess.run([*_PACKED, tree, out / name], check=True, timeout=_LIMIT_S, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return out / name


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} does not say {old!r} once"
    path.write_text(text.replace(old, new))
