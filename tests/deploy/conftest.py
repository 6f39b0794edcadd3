"""What tests of several files here share."""

from pathlib import Path

import pytest

from deploy.deb_packages import build


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The Debian packages exeat and exeat-plane of this tree."""
    return build(tmp_path_factory.mktemp("packages"))
