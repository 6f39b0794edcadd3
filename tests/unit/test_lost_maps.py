"""Programs that are attached somewhere, and whose maps cannot be opened any more: no agent takes them for its own."""

from pathlib import Path

import pytest

from exeat.kernel.instance import _ESSENTIAL, Instance


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Pinned in a directory; nothing is there yet."""
    monkeypatch.setattr(Instance, "directory", property(lambda self: tmp_path))
    return Instance("one")


@pytest.mark.parametrize("pin", ["links/on_packet_out", "links/interfaces/7-out", "links/frames/7-out"])
def test_what_is_attached_without_its_maps_has_lost_them(instance: Instance, pin: str) -> None:
    """To a cgroup, at a guest's interface, or at any other."""
    assert not instance.has_lost_maps()
    (instance.directory / pin).parent.mkdir(parents=True)
    assert not instance.has_lost_maps()
    (instance.directory / pin).touch()
    assert instance.has_lost_maps()
    (instance.directory / "maps").mkdir()
    for name in _ESSENTIAL:
        (instance.directory / "maps" / name).touch()
    assert not instance.has_lost_maps()
