"""The repository's own rules: what may stand where, and how long a file may grow."""

import re
import subprocess
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TOP = {
    ".ci", ".clang-format", ".gitignore", "LICENSE", "Makefile", "README.md", "agent", "bpf", "docs", "packaging",
    "proto", "pyproject.toml", "requirements.lock", "tests", "vagrant",
}  # fmt: skip


def tracked() -> list[Path]:
    """Every file that git knows."""
    names = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
    return [REPOSITORY / name for name in names.splitlines() if (REPOSITORY / name).is_file()]


def test_the_top_level_is_fixed() -> None:
    """A newcomer finds the room for a change by the folder names."""
    assert {path.relative_to(REPOSITORY).parts[0] for path in tracked()} <= TOP


def test_a_file_holds_one_idea() -> None:
    """A Python module under 300 lines, a BPF header under 200; tests are longer, being lists."""
    for path in tracked():
        limit = {".py": 300, ".h": 200, ".c": 200}.get(path.suffix)
        if limit and path.is_relative_to(REPOSITORY / "tests"):
            limit = 500
        if limit:
            assert len(path.read_text().splitlines()) <= limit, path


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by it, and collects only the first."""
    names = Counter(path.name for path in tracked() if path.parts[0] == "tests" and path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_bpf_file_says_its_licence() -> None:
    """bpf/ is dual-licensed, the rest is Apache-2.0."""
    for path in tracked():
        if path.parent.name == "bpf" and path.suffix in (".c", ".h"):
            assert path.read_text().startswith("/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */"), path


def test_no_error_is_swallowed() -> None:
    """An error that nobody hears of is one that an operator must know."""
    for path in tracked():
        if path.suffix == ".py":
            assert not re.search(r"except( \w*(Exception|Error))?:\s*pass\b", path.read_text()), path


def test_the_two_paths_are_lists_of_includes() -> None:
    """Every header stands in one of them, those of interfaces in tap.c only, and nothing else does."""
    included = {}
    for path in ("enforcer.c", "tap.c"):
        text = (REPOSITORY / "bpf" / path).read_text()
        included[path] = set(re.findall(r'#include "([^"]+)"', text))
        assert [line for line in text.splitlines() if line and not line.startswith(("#include", "/*", " *"))] == []
    assert included["enforcer.c"] | included["tap.c"] == {path.name for path in (REPOSITORY / "bpf").glob("*.h")}
    assert not [name for name in included["enforcer.c"] if "guest" in name]
