"""The benchmark of the plane runs, and measures what it says: a fleet of 20, on SQLite."""

from bench.plane import Extent, measure


def test_a_small_fleet_gets_every_change_and_comes_back() -> None:
    """Numbers are taken loosely: the machine does other things too."""
    rows = {row.what: row for row in measure(Extent(20, 1000, 3, 1), ("sqlite",))}
    assert list(rows) == [
        "sqlite, 20 agents: 1000 hosts to all",
        "sqlite, 20 agents: one host added, applied to ACKed",
        "sqlite, 20 agents: the same, until the last ACK",
        "sqlite, 20 agents: plane stopped and started, until all are back",
        "sqlite, 20 agents: plane killed and started, until all are back",
    ]
    added, last = (
        rows[f"sqlite, 20 agents: {what}"]
        for what in ("one host added, applied to ACKed", "the same, until the last ACK")
    )
    assert 0 < added.median <= last.high < 5000
    assert all(0 < row.median < 60 for what, row in rows.items() if what.endswith("are back"))
