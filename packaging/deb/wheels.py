"""What the Debian packages bring of PyPI: wheels by the hashes of requirements.lock, for several versions of Python."""

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")  # of Debian 12, Ubuntu 24.04, Debian 13
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC_MINOR = range(17, 37)  # up to Debian 12's 2.36, which is the oldest that we install on


def needed(extra: str | None = None) -> set[str]:
    """The packages that exeat needs, with what they need in turn; with an extra of its own if wanted."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]
    return set(_closure(map(Requirement, wanted), set()))


def _closure(requirements: Iterable[Requirement], seen: set[str]) -> Iterator[str]:
    """By what is installed here, on the oldest Python: later ones need the same, or less."""
    for one in requirements:
        for extra in (*one.extras, ""):
            name = canonicalize_name(one.name)
            if f"{name}[{extra}]" in seen:
                continue
            seen.add(f"{name}[{extra}]")
            yield name
            wanted = (Requirement(text) for text in distribution(name).requires or ())
            yield from _closure((each for each in wanted if _is_of(each, extra)), seen)


def _is_of(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def locked(names: set[str]) -> str:
    """Their lines of requirements.lock."""
    entries = re.split(r"(?m)^(?=\S)", (REPOSITORY / "requirements.lock").read_text())
    found = {entry.partition("==")[0]: entry for entry in entries if "==" in entry}
    if missing := names - found.keys():
        raise SystemExit(f"requirements.lock does not name {', '.join(sorted(missing))}")
    return "".join(found[name] for name in sorted(names))


def fetched(names: set[str], architecture: str, cache: Path) -> dict[str, list[Path]]:
    """The wheels for each Python. What was fetched once is not fetched again."""
    lock = locked(names)
    home = cache / hashlib.sha256(f"{lock}{architecture}{PYTHONS}".encode()).hexdigest()[:16]
    for version in PYTHONS:
        if (home / version / ".whole").exists():
            continue
        (home / version).mkdir(parents=True, exist_ok=True)
        (home / "lock.txt").write_text(lock)
        machine = MACHINES[architecture]
        tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in _GLIBC_MINOR)]
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps",
                "--require-hashes", "--only-binary=:all:", "--implementation=cp", f"--python-version={version}",
                *(f"--platform={tag}_{machine}" for tag in tags),
                "--dest", home / version, "--requirement", home / "lock.txt",
            ],
            check=True,
        )  # fmt: skip
        (home / version / ".whole").touch()
    return {version: sorted((home / version).glob("*.whl")) for version in PYTHONS}


def unpack(wheels: dict[str, list[Path]], home: Path) -> None:
    """Into a tree like that of a virtual environment; what is the same for every Python stands there once."""
    names = [{wheel.name for wheel in each} for each in wheels.values()]
    for version, each in wheels.items():
        for wheel in each:
            if wheel.name in set.intersection(*names):
                if version == PYTHONS[0]:
                    extract(wheel, home / "common")
            else:
                extract(wheel, home / "lib" / f"python{version}" / "site-packages")


def extract(wheel: Path, target: Path) -> None:
    """As pip would, but for scripts: none is needed."""
    with zipfile.ZipFile(wheel) as archive:
        if data := [name for name in archive.namelist() if ".data/" in name and "/scripts/" not in name]:
            raise SystemExit(f"{wheel.name} wants to be installed elsewhere, too: {data[0]}")
        archive.extractall(target, [name for name in archive.namelist() if ".data/" not in name])
