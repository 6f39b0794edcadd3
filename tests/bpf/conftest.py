"""The enforcer for tests that ask its programs and send nothing."""

import os
from collections.abc import Iterator

import pytest

from e2e.guard import Guard


@pytest.fixture(scope="package")
def guard() -> Iterator[Guard]:
    """The programs, loaded once."""
    if os.geteuid() != 0:
        pytest.skip("the enforcer is loaded by root only")
    guard = Guard()
    yield guard
    guard.close()
