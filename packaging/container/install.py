"""Fills the two environments of the images. Runs while they are built, twice.

    install.py packages    # of requirements.lock what each needs
    install.py exeat       # exeat itself

pip takes hashes only from a list of all that it shall install, so it is asked first what that is.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

SOURCE = Path(__file__).parent
TOOLS, AGENT, PLANE = Path("/opt/tools"), Path("/opt/agent"), Path("/opt/plane")
BUILDERS = ("grpcio-tools", "hatchling")
_PIP = ("--quiet", "--disable-pip-version-check")


def main() -> None:
    """One of the two."""
    if sys.argv[1:] == ["packages"]:
        project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
        own = project["dependencies"]
        for home, wanted in (
            (TOOLS, BUILDERS), (AGENT, own), (PLANE, (*own, *project["optional-dependencies"]["plane"]))
        ):  # fmt: skip
            install(home, wanted)
    elif sys.argv[1:] == ["exeat"]:
        generate()
        pip(TOOLS, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "/tmp", SOURCE)
        for home in (AGENT, PLANE):
            pip(home, "install", "--no-deps", "--no-index", *Path("/tmp").glob("exeat-*.whl"))
    else:
        raise SystemExit(__doc__)


def generate() -> None:
    """What the protocol's files become, as `make setup` does it, without the stubs for type checkers."""
    home = SOURCE / "agent/exeat/v1"
    home.mkdir(exist_ok=True)
    (home / "__init__.py").write_text('"""Made from proto/exeat/v1."""\n')
    protos = sorted((SOURCE / "proto/exeat/v1").glob("*.proto"))
    outputs = (f"--python_out={SOURCE}/agent", f"--grpc_python_out={SOURCE}/agent")
    subprocess.run(
        [TOOLS / "bin/python", "-m", "grpc_tools.protoc", f"-I{SOURCE}/proto", *outputs, *protos], check=True
    )


def install(home: Path, wanted: tuple[str, ...]) -> None:
    """Packages and what they need in turn, by the hashes of the lock file."""
    lock = entries()
    pins, report, listed = Path("/tmp/pins.txt"), Path("/tmp/report.json"), Path("/tmp/listed.txt")
    pins.write_text("".join(entry.split()[0] + "\n" for entry in lock.values()))
    asked = ("--dry-run", "--ignore-installed", "--report", report, "--constraint", pins)
    pip(home, "install", *asked, *wanted)
    names = {canonical(each["metadata"]["name"]) for each in json.loads(report.read_text())["install"]}
    listed.write_text("".join(lock[name] for name in sorted(names)))
    pip(home, "install", "--ignore-installed", "--no-deps", "--require-hashes", "--requirement", listed)


def entries() -> dict[str, str]:
    """The lock file's, with their hashes, by name."""
    parts = re.split(r"(?m)^(?=\S)", (SOURCE / "requirements.lock").read_text())
    return {canonical(part.partition("==")[0]): part for part in parts if "==" in part}


def canonical(name: str) -> str:
    """PEP 503; without extras."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def pip(home: Path, command: str, *words: str | Path) -> None:
    """The tools' pip at work in another environment."""
    words = (TOOLS / "bin/pip", "--python", home / "bin/python", command, *_PIP, *words)
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    main()
