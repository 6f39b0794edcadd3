"""What a plane tells Prometheus, and whoever asks whether it is well."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from exeat.plane.counts import Counts
from exeat.plane.metrics import routes
from exeat.plane.nodes import nodes
from exeat.plane.parts import NothingCollected, Plane
from exeat.plane.policies import policies
from exeat.plane.settings import AgentsDoor, PlaneSettings
from exeat.plane.store.database import Database, StoreError
from exeat.plane.verdicts.live import Feed
from plane.stores import ack, change, come, nack, open_store, policy_text

DOCS = Path(__file__).parents[2] / "docs" / "plane-settings.md"


class Nobody:
    """Three agents are connected, by this word."""

    def is_connected(self, node: str) -> bool:
        """Never."""
        return False

    def connected(self) -> int:
        """As said."""
        return 3


class Broken:
    """A store that is away."""

    def reading(self) -> Database:
        """Never."""
        raise StoreError("PostgreSQL: secret.example.com does not answer")


def plane_with(database: Database, counts: Counts) -> Plane:
    """The parts that metrics are about."""
    door = AgentsDoor(Path("/a"), Path("/b"), Path("/c"))
    collected = NothingCollected(stored=70, lost=4, failures=2, waiting=1)
    return Plane(PlaneSettings(door, "plane-1"), database, Nobody(), Feed(database), counts, collected)


def samples(client: TestClient) -> dict[str, float]:
    """By name and labels."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for one in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}"] = one.value
    return found


@pytest.fixture
def counts() -> Counts:
    """Some of each."""
    found = Counts()
    found.answers.update(ack=5, nack=1)
    found.commands.update(done=2)
    found.web.update({2: 9, 4: 3})
    found.push_seconds.observe(0.03)
    return found


def test_numbers_are_what_happened(tmp_path: Path, counts: Counts) -> None:
    """This replica's, and those of the fleet."""
    with open_store("sqlite", tmp_path) as database:
        now_ns = time.time_ns()
        with database.writing() as tx:
            for name in ("secret-a", "secret-b", "secret-c"):
                come(tx, name, at_ns=now_ns)
            ack(tx, "secret-a", (), now_ns)
            nack(tx, "secret-b", "no", now_ns)
            nodes.next_serial(tx, "secret-c", now_ns)
            nodes.add(tx, "secret-d")
            policies.apply(tx, [("x", policy_text("p"))], change(now_ns))
        client = TestClient(Starlette(routes=routes(plane_with(database, counts))))
        found = samples(client)
        assert client.get("/healthz").text == "ok\n"
        assert "secret" not in client.get("/metrics").text
    assert found["exeat_plane_connected_nodes{}"] == 3
    states = {
        state: found[f"exeat_plane_nodes{{state={state}}}"] for state in ("current", "refused", "behind", "never")
    }
    assert states == {"current": 1, "refused": 1, "behind": 1, "never": 1}
    assert found["exeat_plane_policies{source=store}"] == 1
    assert (found["exeat_plane_answers_total{answer=ack}"], found["exeat_plane_answers_total{answer=nack}"]) == (5, 1)
    assert found["exeat_plane_verdicts_stored_total{}"] == 70
    assert found["exeat_plane_lines_lost_total{}"] == 4
    assert found["exeat_plane_store_errors_total{what=verdicts}"] == 2
    assert found["exeat_plane_web_requests_total{status=4xx}"] == 3
    assert found["exeat_plane_push_seconds_bucket{le=0.05}"] == 1
    assert found["exeat_plane_resident_bytes{}"] > 1 << 20


def test_every_metric_is_documented(tmp_path: Path, counts: Counts) -> None:
    """And no other."""
    with open_store("sqlite", tmp_path) as database:
        text = TestClient(Starlette(routes=routes(plane_with(database, counts)))).get("/metrics").text
    told = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert told == set(re.findall(r"exeat_plane_\w+", DOCS.read_text()))


def test_without_a_store_it_says_that_it_is_not_well(tmp_path: Path, counts: Counts) -> None:
    """And tells what it knows without one; nothing of the connection."""
    with open_store("sqlite", tmp_path) as database:
        whole = plane_with(database, counts)
    client = TestClient(Starlette(routes=routes(replace(whole, database=Broken()))))  # type: ignore[arg-type]
    answer = client.get("/healthz")
    assert (answer.status_code, answer.text) == (503, "the store cannot be asked: the plane's log says why\n")
    found = samples(client)
    assert found["exeat_plane_store_errors_total{what=read}"] == 1
    assert not any(name.startswith("exeat_plane_nodes") for name in found)
    assert "secret" not in client.get("/metrics").text
