"""The benchmarks run, and measure what they say. A test's machine does other things too: numbers are taken loosely."""

import json
import os
from pathlib import Path

import pytest

from bed import missing_capability
from bench.main import main
from bench.paired import paired
from bench.place import GRANTS, OFF, TEN, TEN_THOUSAND, UNMANAGED
from bench.rows import Bar, Row, row, table

ENFORCED = (TEN, TEN_THOUSAND, GRANTS)


def test_a_ratio_is_taken_within_a_round_and_the_first_round_does_not_count() -> None:
    """Or a machine that grows slower would make exeat look expensive."""
    speed = iter([100.0] * 2 + [1.0, 2.0] + [20.0, 10.0])  # the order changes from round to round
    emptied = []

    def work(setting: str) -> list[float]:
        return [next(speed)]

    found = paired([OFF, TEN], 2, work, lambda: emptied.append(1))
    assert found.plain == [2.0, 20.0]
    assert found.ratios == {TEN: [0.5, 0.5]}
    assert found.extra == {TEN: [-1.0, -10.0]}
    assert len(emptied) == 6


def test_a_ratio_may_have_another_base() -> None:
    """What resolving costs is told beside dnsmasq, not beside nothing."""
    found = paired(["dnsmasq", "gate"], 3, lambda setting: [4.0 if setting == "gate" else 2.0], lambda: None, "dnsmasq")
    assert found.plain == [2.0] * 3
    assert found.ratios == {"gate": [2.0] * 3}


def test_a_bar_that_is_missed_is_printed_as_over() -> None:
    """In the table, beside the bar."""
    rows = [row("fast", [1.0, 1.02, 1.04], "x", Bar(1.03)), row("slow", [0.9], "x", Bar(0.97, is_least=True))]
    assert [one.verdict for one in rows] == ["ok", "over"]
    fast, slow = table(rows).splitlines()[1:]
    assert "1.020" in fast
    assert fast.endswith("ok")
    assert ">= 0.97  over" in slow
    assert Row("no bar", 1, 1, 1, "us").verdict == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="the enforcer is loaded and attached by root only")
@pytest.mark.skipif(missing_capability() is not None, reason=str(missing_capability()))
def test_the_short_benchmark_measures_traffic_that_was_judged(tmp_path: Path) -> None:
    """Connections, handshakes and datagrams under each setting, and questions; it always exits with 0."""
    file = tmp_path / "rows.json"
    wanted = [word for name in ("connect", "tls", "udp", "names") for word in ("--only", name)]
    assert main(["--short", "--rounds", "10", "--json", str(file), *wanted]) == 0
    rows = {one["what"]: one for one in json.loads(file.read_text())}
    for setting in (UNMANAGED, *ENFORCED):  # the better quartile: the worse one is what the machine does beside
        assert 0 < rows[f"TCP connect+close: {setting}"]["low"] <= 1.6
        assert 0 < rows[f"TLS handshake: {setting}"]["low"] <= 1.6
        for what in ("connected send", "sendto"):
            assert rows[f"UDP packets/s, {what}: {setting}"]["high"] >= 0.5
    assert rows["DNS answers/s, cached: gate"]["high"] >= 0.4
    for how in ("forwarded", "forwarded, then connect"):  # asked upstream by name, or measuring would have failed
        assert 0 < rows[f"DNS question, {how}: gate"]["low"] <= 1500
    for one in rows.values():
        assert one["low"] <= one["median"] <= one["high"]
        assert one["verdict"] in ("ok", "over", "")
