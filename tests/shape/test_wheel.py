"""What is installed is all that is needed: the wheel carries the BPF sources, the stub headers and the protocol."""

import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PLANE = "agent/exeat/plane"  # with its templates and what browsers get


def test_the_wheel_carries_bpf_stubs_protocol_and_console(tmp_path: Path) -> None:
    """Each file of bpf/ and proto/ stands in it, and the loader finds them beside itself."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    for source, target in (("bpf", "exeat/kernel/bpf"), ("proto", "exeat/proto"), (PLANE, "exeat/plane")):
        home = REPOSITORY / source
        expected = {path.relative_to(home) for path in home.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        shipped = tmp_path / "installed" / target
        assert {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()} == expected
    found = subprocess.run(
        [sys.executable, "-S", "-c", "from exeat.kernel.source import joined_source; print(len(joined_source()))"],
        env={"PYTHONPATH": str(tmp_path / "installed")}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert int(found.stdout) > 10_000
