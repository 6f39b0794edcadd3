"""Builds of exeat for tests of upgrades: a copied tree as it is, with changed programs, or with another layout of maps.

Each function returns the environment that has an agent run the build.
"""

import shutil
from pathlib import Path

from exeat.kernel.abi import LAYOUT
from exeat.kernel.source import bpf_directory

AGENT = Path(__file__).parents[2] / "agent"


def as_it_is(place: Path) -> dict[str, str]:
    """This build, from a place of its own: whoever edits the tree meanwhile changes nothing."""
    return {"PYTHONPATH": str(_copied(place) / "agent")}


def in_haste(environment: dict[str, str]) -> dict[str, str]:
    """The same build, which removes what nobody uses after 0.2 s and not after 5."""
    agent = Path(environment["PYTHONPATH"]) / "exeat" / "agent"
    _replace(agent / "sets.py", "\n_GRACE_NS = 5 * 10**9 ", "\n_GRACE_NS = 10**9 // 5 ")
    _replace(agent / "upkeep.py", "\n_SLOW_NS = 5_000_000_000\n", "\n_SLOW_NS = 300_000_000\n")
    return environment


def changed_programs(place: Path) -> dict[str, str]:
    """Its programs differ from this one's, and judge alike."""
    copy = _copied(place)
    _replace(copy / "bpf" / "hook_packet.h", "HEADERS_MAX = 100", "HEADERS_MAX = 101")
    return {"PYTHONPATH": str(copy / "agent")}


def changed_layout(place: Path) -> dict[str, str]:
    """Its maps are of the next layout: nothing of the old ones can be used."""
    copy = _copied(place)
    _replace(copy / "agent" / "exeat" / "kernel" / "abi.py", f"\nLAYOUT = {LAYOUT}\n", f"\nLAYOUT = {LAYOUT + 1}\n")
    return {"PYTHONPATH": str(copy / "agent")}


def _copied(place: Path) -> Path:
    nothing_made = shutil.ignore_patterns("__pycache__")
    shutil.copytree(AGENT / "exeat", place / "agent" / "exeat", ignore=nothing_made)
    shutil.copytree(bpf_directory(), place / "bpf", ignore=nothing_made)
    return place


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} does not say {old!r} once"
    path.write_text(text.replace(old, new))
