"""Files that are replaced as a whole: whoever reads one sees the old or the new, also after a crash."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, is_synced: bool = False) -> None:
    """`is_synced`: also after a power cut. Raises OSError; then all is as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if is_synced:
                os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
