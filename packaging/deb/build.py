"""Makes the Debian packages exeat and exeat-plane: .venv/bin/python packaging/deb/build.py [--suffix +1] [OUT]

The packages of PyPI that Debian has too old, or not at all, come along (wheels.py), in a virtual environment of the
system's python3, /usr/lib/exeat. The same input makes the same bytes; SOURCE_DATE_EPOCH dates them, else the last
commit.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from wheels import MACHINES, PYTHONS, REPOSITORY, extract, fetched, needed, unpack

from exeat import __version__

_HERE = Path(__file__).parent
_HOME = Path("usr/lib/exeat")
_PLANE = "exeat-plane"
_SCRIPTS = ("postinst", "prerm", "postrm")
_VENV = "home = /usr/bin\ninclude-system-site-packages = true\n"  # python3-bpfcc is the system's
_COMPRESSED = ("-Zzstd", "-z9")  # 2 s; xz makes it a sixth smaller, in 50
_COMPLETION = {
    "bash": "bash-completion/completions/exeat",
    "zsh": "zsh/vendor-completions/_exeat",
    "fish": "fish/vendor_completions.d/exeat.fish",
}
_ARCHITECTURE = "dpkg --print-architecture"


def main() -> None:
    """Builds both."""
    parser = argparse.ArgumentParser(description="Makes exeat_VERSION_ARCH.deb and exeat-plane_VERSION_ARCH.deb.")
    parser.add_argument("out", nargs="?", type=Path, default=REPOSITORY / "dist", metavar="OUT")
    parser.add_argument("--suffix", default="", help="behind the version, +git20270101 for example")
    options = parser.parse_args()
    architecture = subprocess.check_output(_ARCHITECTURE.split(), text=True).strip()
    if architecture not in MACHINES:
        raise SystemExit(f"no packages for {architecture}: there are some for {', '.join(MACHINES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["SOURCE_DATE_EPOCH"] = str(_epoch())  # manual pages and archives have dates
    cache = REPOSITORY / "build" / "deb"
    with tempfile.TemporaryDirectory() as place:
        agent, plane = Path(place, "exeat"), Path(place, _PLANE)
        _lay_out_agent(agent, fetched(needed(), architecture, cache))
        _lay_out_plane(plane, fetched(needed("plane") - needed(), architecture, cache))
        for tree in (agent, plane):
            words = {"version": __version__ + options.suffix, "architecture": architecture}
            print(_pack(tree, words, options.out))


def _lay_out_agent(root: Path, wheels: dict[str, list[Path]]) -> None:
    home = root / _HOME
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text(_VENV)
    unpack(wheels, home)
    for version in PYTHONS:
        site = home / "lib" / f"python{version}" / "site-packages"
        (site / "exeat.pth").write_text(f"/{_HOME / 'common'}\n")
    _extract_own(home / "common")
    _put(_HERE / "exeat" / "leave.py", home / "leave.py")
    _put(_HERE / "exeat" / "launcher.py", root / "usr/bin/exeat")
    _put(_HERE / "exeat" / "sysusers.conf", root / "usr/lib/sysusers.d/exeat.conf")
    _put(REPOSITORY / "packaging/exeat.service", root / "usr/lib/systemd/system/exeat.service")
    _put(REPOSITORY / "packaging/exeat.yaml", root / "etc/exeat/exeat.yaml")
    (root / "etc/exeat/policies.d").mkdir()
    documents = root / "usr/share/doc/exeat"
    shutil.copytree(REPOSITORY / "docs", documents)
    _put(REPOSITORY / "README.md", documents / "README.md")
    _put(REPOSITORY / "packaging/example-policy.yaml", documents / "examples/example-policy.yaml")
    _write_copyright(documents / "copyright")
    _write_manual(root / "usr/share")


def _lay_out_plane(root: Path, wheels: dict[str, list[Path]]) -> None:
    unpack(wheels, root / _HOME)
    _put(_HERE / _PLANE / "sysusers.conf", root / "usr/lib/sysusers.d/exeat-plane.conf")
    _put(REPOSITORY / "packaging/exeat-plane.service", root / "usr/lib/systemd/system/exeat-plane.service")
    _put(REPOSITORY / "packaging/plane.yaml", root / "etc/exeat/plane.yaml")
    _write_copyright(root / "usr/share/doc" / _PLANE / "copyright")


def _extract_own(target: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place],
            cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        (wheel,) = Path(place).glob("*.whl")
        extract(wheel, target)


def _write_copyright(path: Path) -> None:
    texts = [REPOSITORY / "LICENSE", REPOSITORY / "bpf/LICENSE"]
    texts += sorted((REPOSITORY / "agent/exeat/plane/web/static").glob("*.LICENSE.txt"))
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "Packages of PyPI below /usr/lib/exeat bring their licences in their *.dist-info directories.\n"
    path.write_text("\n".join([head, *(f"{text.relative_to(REPOSITORY)}\n\n{text.read_text()}" for text in texts)]))


def _write_manual(share: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-m", "exeat.cli.manual", place], check=True)
        for page in sorted(Path(place).glob("*.1")):
            target = share / "man/man1" / f"{page.name}.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.compress(page.read_bytes(), mtime=0))
    for shell, where in _COMPLETION.items():
        made = subprocess.check_output([sys.executable, "-m", "exeat.cli.main", "completion", shell])
        (share / where).parent.mkdir(parents=True, exist_ok=True)
        (share / where).write_bytes(made)


def _pack(root: Path, words: dict[str, str], out: Path) -> Path:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    metadata = root / "DEBIAN"
    metadata.mkdir()
    source = _HERE / root.name
    words = {**words, "size": str(sum(-(-path.stat().st_size // 1024) for path in files))}
    control = (source / "control").read_text()
    for name, value in words.items():
        control = control.replace(f"@{name}@", value)
    (metadata / "control").write_text(control)
    _put(source / "conffiles", metadata / "conffiles")
    for script in _SCRIPTS:
        _put(source / script, metadata / script)
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n" for path in files)  # noqa: S324
    (metadata / "md5sums").write_text("".join(sums))
    _make_uniform(root)
    package = out / f"{root.name}_{words['version']}_{words['architecture']}.deb"
    order = ["dpkg-deb", "--root-owner-group", *_COMPRESSED, "--build", root, package]
    subprocess.run(order, check=True, stdout=subprocess.DEVNULL)
    return package


def _make_uniform(root: Path) -> None:
    """Modes and times that do not depend on who builds, and when."""
    programs = {root / "usr/bin/exeat", *(root / "DEBIAN" / script for script in _SCRIPTS)}
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
        os.utime(path, (_epoch(), _epoch()), follow_symlinks=False)


def _epoch() -> int:
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    asked = subprocess.run(
        ["git", "-C", REPOSITORY, "log", "-1", "--format=%ct"], check=False, capture_output=True, text=True
    )
    return int(asked.stdout) if asked.returncode == 0 else 1767225600  # of no repository: 2026-01-01


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
