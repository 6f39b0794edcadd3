"""The benchmarks of the interface path run, and measure what they say. Numbers are taken loosely."""

import json
import os
from pathlib import Path

import pytest

from bed import missing_capability
from bench.guest import DENIED_WITHIN_MS
from bench.guest_many import FEW
from bench.guest_place import GUESTS
from bench.main import main
from bench.place import OFF, TEN_THOUSAND


@pytest.mark.skipif(os.geteuid() != 0, reason="the enforcer is loaded and attached by root only")
@pytest.mark.skipif(missing_capability() is not None, reason=str(missing_capability()))
def test_the_short_benchmark_measures_guests_whose_packets_were_judged(tmp_path: Path) -> None:
    """Each measurement fails by itself if packets were not judged, did not arrive, or arrived though denied.

    The command ends with 0, whatever was measured.
    """
    file = tmp_path / "rows.json"
    names = ("connect", "first", "tls", "udp", "bulk", "denied", "many")
    wanted = [word for name in names for word in ("--only", f"guest-{name}")]
    assert main(["--short", "--rounds", "2", "--json", str(file), *wanted]) == 0
    rows = {one["what"]: one for one in json.loads(file.read_text())}
    for setting in set(GUESTS) - {OFF}:  # the better quartile: the worse one is what the machine does beside
        assert 0 < rows[f"guest: TCP connect+close: {setting}"]["low"] <= 2.5
        assert 0 < rows[f"guest: TLS handshake: {setting}"]["low"] <= 2.5
        assert rows[f"guest: TLS connections/s, without cryptography: {setting}"]["high"] >= 0.25
        assert rows[f"guest: UDP packets/s, veth: {setting}"]["high"] >= 0.25
        for way in ("tls rule", "tcp rule", "in"):
            assert rows[f"guest: bulk bytes/s, {way}: {setting}"]["high"] >= 0.25
    assert rows[f"guest: UDP packets/s, tap: {TEN_THOUSAND}"]["high"] >= 0.25
    for what in ("TCP, from connect", "UDP, from send", "TLS by name, from the hello", "tap, SYN to RST"):
        assert 0 < rows[f"guest: denied, {what}: {TEN_THOUSAND}"]["median"] <= DENIED_WITHIN_MS
    for what in ("one more judged", "one let go of"):
        assert 0 < rows[f"{FEW} interfaces: {what}"]["median"] <= 1000
    assert 0 < rows["the kernel's tables for one interface"]["median"] <= 100
    for one in rows.values():
        assert one["low"] <= one["median"] <= one["high"]
        assert one["verdict"] in ("ok", "over", "")
