"""What the console's tests begin with; a test's module that wants a plane without a fleet makes one of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.plane.parts import Plane
from plane.console_stage import Tokens, fill, make_tokens, open_plane, serving


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """With a fleet."""
    with open_plane(tmp_path) as plane:
        fill(plane.database)
        yield plane


@pytest.fixture
def tokens(plane: Plane) -> Tokens:
    """Of three people."""
    return make_tokens(plane.database, plane.now_ns())


@pytest.fixture
def address(plane: Plane) -> Iterator[str]:
    """Where it serves."""
    with serving(plane) as address:
        yield address
