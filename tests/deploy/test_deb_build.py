"""The Debian packages as files: the same for whoever builds them, and right for each Python that they name."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from deploy.deb_packages import build
from exeat import __version__


@pytest.fixture(scope="module")
def listing(packages: list[Path]) -> list[str]:
    """What they unpack: mode, owner and path of each entry."""
    lines = [subprocess.check_output(["dpkg-deb", "--contents", one], text=True).splitlines() for one in packages]
    return [f"{line.split()[0]} {line.split()[1]} {line.split(maxsplit=5)[5]}" for each in lines for line in each]


def test_the_same_input_makes_the_same_bytes(packages: list[Path], tmp_path: Path) -> None:
    """Built by somebody with other habits, somewhere else."""
    before = os.umask(0o077)
    try:
        again = build(tmp_path / "elsewhere")
    finally:
        os.umask(before)
    assert [one.name for one in again] == [one.name for one in packages]
    for one, other in zip(packages, again, strict=True):
        assert set(sums(one)) ^ set(sums(other)) == set()
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_version_is_that_of_the_code(packages: list[Path]) -> None:
    """And the plane wants exactly its own exeat."""
    assert [field(one, "Version") for one in packages] == [__version__] * 2
    assert f"exeat (= {__version__})" in field(packages[1], "Depends")


def test_everything_belongs_to_root_and_nobody_else_may_write(listing: list[str]) -> None:
    """Directories can be entered, and exactly one program is there to be called."""
    odd = [line for line in listing if not re.match(r"(drwxr-xr-x|-rw-r--r--|lrwxrwxrwx) root/root ", line)]
    assert odd == ["-rwxr-xr-x root/root ./usr/bin/exeat"]


def test_compiled_packages_are_there_for_each_python_and_none_is_mixed_up(listing: list[str]) -> None:
    """A module for another Python than its directory's would not be found by it."""
    modules = [line for line in listing if re.search(r"/lib/python3\.\d+/.*\.so$", line)]
    found = {
        version: [line for line in modules if f"/python{version}/" in line] for version in ("3.11", "3.12", "3.13")
    }
    assert len(modules) == sum(map(len, found.values()))
    for version, lines in found.items():
        named = [line for line in lines if ".cpython-" in line]
        assert {"cygrpc", "_yaml", "_speedups", "_psycopg"} <= {Path(line).name.partition(".")[0] for line in named}
        assert all(f".cpython-{version.replace('.', '')}-" in line for line in named)


def test_what_only_a_plane_needs_is_no_part_of_the_agents_package(packages: list[Path]) -> None:
    """A node carries no database client and no web server."""
    agents, planes = (subprocess.check_output(["dpkg-deb", "--contents", one], text=True) for one in packages)
    for name in ("psycopg", "starlette", "uvicorn", "jinja2"):
        assert f"/{name}/" in planes
        assert f"/{name}/" not in agents


def sums(package: Path) -> list[str]:
    """What the package says of its files' contents."""
    return subprocess.check_output(["dpkg-deb", "--info", package, "md5sums"], text=True).splitlines()


def field(package: Path, name: str) -> str:
    """One field of a package's control file."""
    return subprocess.check_output(["dpkg-deb", "--field", package, name], text=True).strip()
