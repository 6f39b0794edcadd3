"""The images of packaging/container, built for real from what is in the tree, as archives for `docker load` or `ctr`.

No registry is asked: the Dockerfile's base is a Debian of the same release that mmdebstrap makes here, with the
machine's own certificates and settings for pip beside it, so that apt and pip find their mirrors. It is kept in build/.

Buildah builds, in a chroot, and not Docker: what a Dockerfile says is the same to both, and a build that runs in no
container cannot be taken for one by an agent of another test.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
_BASE = "localhost/debian:12-slim"
TARGETS = ("agent", "plane")
_KEPT = REPOSITORY / "build" / "image-base"
_OF_THE_MACHINE = ("/etc/pip.conf", "/usr/local/share/ca-certificates")
_CONTEXT = (
    "agent",
    "bpf",
    "proto",
    "pyproject.toml",
    "requirements.lock",
    "README.md",
    "LICENSE",
    "packaging/container",
)
_DOCKERFILE = "packaging/container/Dockerfile"
_BASE_S, _BUILD_S = 400, 600


def missing_for_images() -> str | None:
    """Why none can be built, as a sentence for a skip."""
    missing = [name for name in ("mmdebstrap", "buildah") if shutil.which(name) is None]
    return f"these tests need Debian's packages {', '.join(missing)}" if missing else None


def base_tar() -> Path:
    """Debian 12 without anything that is not needed, as debian:12-slim is."""
    settings = [path for path in map(Path, _OF_THE_MACHINE) if path.exists()]
    content = b"".join(
        file.read_bytes() for path in settings for file in sorted([path, *path.rglob("*")]) if file.is_file()
    )
    tar = _KEPT / f"{hashlib.sha256(content).hexdigest()[:16]}.tar"
    if not tar.exists():
        _KEPT.mkdir(parents=True, exist_ok=True)
        draft = tar.with_suffix(".new.tar")
        hooks = [f"--customize-hook=copy-in {path} {path.parent}" for path in settings]
        slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        retries = '--aptopt=Acquire::Retries "5"'
        subprocess.run(
            ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", retries, *slim, *hooks, "bookworm", draft],
            check=True, timeout=_BASE_S,
        )  # fmt: skip
        draft.rename(tar)
    return tar


def built_images(version: str, place: Path) -> dict[str, Path]:
    """Both, under the names that the chart gives them."""
    storage = _Storage(place / "storage")
    context = place / "context"
    for name in _CONTEXT:
        _copy(REPOSITORY / name, context / name)
    scratch = storage("from", "scratch")
    storage("add", "--quiet", scratch, str(base_tar()), "/")
    storage("commit", "--quiet", "--rm", scratch, _BASE)
    made = {}
    for target in TARGETS:
        tag = f"exeat/{target}:{version}"
        words = ["bud", "--isolation=chroot", "--network=host", "--layers", f"--build-arg=BASE={_BASE}"]
        storage(*words, f"--file={context / _DOCKERFILE}", f"--target={target}", f"--tag={tag}", str(context))
        made[target] = place / f"{target}.tar"
        storage("push", "--quiet", tag, f"docker-archive:{made[target]}:{tag}")
    shutil.rmtree(storage.directory, ignore_errors=True)
    return made


class _Storage:
    """Buildah with a storage of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *words: str) -> str:
        own = ["--root", self.directory / "root", "--runroot", self.directory / "run", "--storage-driver", "overlay"]
        done = subprocess.run(["buildah", *own, *words], capture_output=True, text=True, timeout=_BUILD_S)
        if done.returncode:
            raise RuntimeError(f"buildah {words[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
        return done.stdout.strip()


def _copy(source: Path, target: Path) -> None:
    """As a fresh clone has it, without what is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copy2(source, target)
        return
    made = {str(REPOSITORY / "agent/exeat"): {"v1"}}
    shutil.copytree(source, target, ignore=lambda path, names: {"__pycache__"} | (made.get(path, set()) & set(names)))
