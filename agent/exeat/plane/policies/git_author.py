"""Who wrote policies, where they are files in a git repository. Git need not be there."""

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_WAIT_S = 10
# Whoever may write into the repository must not have the plane run programs of theirs.
_SAFE = ("-c", "core.fsmonitor=false", "-c", "log.showSignature=false", "-c", "core.hooksPath=/dev/null")
_FORMAT = "%h%x00%an <%ae>%x00%s"
_TEXT_MAX = 200


@dataclass(frozen=True, slots=True)
class Author:
    """Of the last commit that touched them."""

    name: str
    commit: str  # its short hash and subject


def author_of(directory: Path, files: Sequence[tuple[str, str]]) -> Author | None:
    """Of files with their texts, by paths in the directory; None where they are not as they were committed."""
    if not any((above / ".git").exists() for above in (directory, *directory.parents)):
        return None
    names = [name for name, _ in files]
    tree = _git(directory, "ls-tree", "-z", "--full-name", "HEAD", "--", *names) if names else ""
    committed = sorted(re.findall(r"^[0-7]+ blob ([0-9a-f]+)\t", tree.replace("\0", "\n"), re.MULTILINE))
    if committed != sorted(_blob(text) for _, text in files):
        return None
    found = (
        _git(directory, "log", "-1", f"--format={_FORMAT}", "HEAD", "--", *(names or ["."])).rstrip("\n").split("\0")
    )
    if len(found) != 3:
        return None
    commit, name, subject = ("".join(c if c.isprintable() else " " for c in one)[:_TEXT_MAX] for one in found)
    return Author(name, f"commit {commit}: {subject}")


def _blob(text: str) -> str:
    """The name that git gives to a content, which is no matter of security here."""
    content = text.encode()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


def _git(directory: Path, *words: str) -> str:
    """What it says; empty where it does not, or is not there."""
    try:
        done = subprocess.run(
            ["git", "--no-pager", "--literal-pathspecs", *_SAFE, "-C", str(directory), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_WAIT_S,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent", "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace")
