"""The images, built once for all test modules of this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from bed import missing_capability
from bed.containerd import missing_containerd
from deploy.container_stage import has_tools
from deploy.image_build import built_images, missing_for_images
from exeat import __version__


def images_of(places: pytest.TempPathFactory) -> dict[str, Path]:
    """An archive of each, or a skip; two minutes."""
    if missing := missing_containerd() or has_tools() or missing_for_images() or missing_capability():
        pytest.skip(missing)
    return built_images(__version__, places.mktemp("images"))
