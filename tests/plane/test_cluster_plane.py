"""From an object of the cluster to an agent, and back into its status, over a real plane and real HTTPS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exeat.plane.cluster import pace
from exeat.plane.policies import policies
from exeat.v1 import plane_pb2 as pb
from plane.certificates import Authority, authority
from plane.cluster_api import RULES, FakeCluster, fake_cluster, rules
from plane.cluster_stage import Stage, hurry, staged
from plane.stores import change, policy_text

BASE = rules("base.example.com", subject={"cgroups": ["/agents.slice"]})


@pytest.fixture
def papers(tmp_path: Path) -> Authority:
    """Who vouches for whom."""
    return authority(tmp_path / "papers")


@pytest.fixture
def cluster(tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """One in which there is nothing yet."""
    hurry(monkeypatch)
    with fake_cluster(tmp_path, papers) as found:
        yield found


def test_objects_come_to_agents_change_and_go(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """And their statuses say how far they have come. Once all is said, nothing more is written."""
    cluster.put("ml", "coder", labels={"team": "ml"})
    cluster.put("", "base", BASE)

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--coder", "base")
            assert '"namespace": "ml"' in stage.text("ml--coder")
            assert await stage.has("ml", "coder", "Enforced", "Enforced") == (
                f"1 of 1 nodes enforce revision {stage.agent.holdings['ml--coder'][:12]}"
            )
            state = pb.WorkloadState(name="w", cgroup="/w", policies=["ml--coder"])
            stage.agent.ground.workloads = {"w": state}
            cluster.put("ml", "coder", rules("second.example.com"))
            await stage.sees(lambda: cluster.status("ml", "coder").get("observedGeneration") == 2)
            assert "second.example.com" in stage.text("ml--coder")
            await stage.has("ml", "coder", "Enforced", "Enforced")
            status = cluster.status("ml", "coder")
            assert status["revision"] == stage.agent.holdings["ml--coder"][:12]
            assert (status["policy"], status["nodes"], status["enforcing"]) == ("ml--coder", 1, 1)
            await stage.sees(lambda: cluster.status("ml", "coder")["workloads"] == 1)
            cluster.put("other", "late", labels={"a": "b"})
            await stage.becomes("ml--coder", "base", "other--late")
            cluster.delete("ml", "coder")
            await stage.becomes("base", "other--late")
            await stage.has("other", "late", "Enforced", "Enforced")
            written = -1
            for _ in range(10):  # the last ones may be late
                if cluster.count("status") == written:
                    break
                written = cluster.count("status")
                await asyncio.sleep(2)
            assert cluster.count("status") == written
            assert stage.controller.problems() == ()
            assert [one for one, _ in await stage.history() if one == "other--late"] == ["other--late"]

    asyncio.run(talk())


def test_a_bad_change_keeps_what_held_and_says_so(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """In the status, with the field; a good one follows, and a bad object by itself keeps nobody else out."""
    cluster.put("ml", "coder")
    cluster.put("ml", "never-good", {"egress": [{"name": "x", "hosts": ["*.com"]}]})

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--coder")
            assert "spec.egress[0].hosts[0]: `*.com` covers" in await stage.has("ml", "never-good", "Invalid")
            assert cluster.condition("ml", "never-good", "Enforced")[1] == "NotAccepted"
            assert "revision" not in cluster.status("ml", "never-good")
            good = stage.agent.holdings["ml--coder"]
            await stage.has("ml", "coder", "Accepted")
            cluster.put("ml", "coder", {"egress": [{"name": "x", "hosts": ["a.example.com"], "port": 443}]})
            message = await stage.has("ml", "coder", "Invalid")
            assert "spec.egress[0].port: `port` is no field of" in message
            assert f"revision {good[:12]} stays in force" in message
            assert cluster.status("ml", "coder")["observedGeneration"] == 2
            assert stage.agent.holdings["ml--coder"] == good
            cluster.put("ml", "coder", rules("mended.example.com"))
            await stage.has("ml", "coder", "Accepted")
            assert "mended.example.com" in stage.text("ml--coder")
        async with staged(cluster, tmp_path, papers) as again:
            cluster.put("ml", "coder", {"egress": "nonsense"})
            await again.has("ml", "coder", "Invalid")
            await again.becomes("ml--coder")

    asyncio.run(talk())


def test_a_tenant_takes_over_nobody(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """The host's cgroups, its interfaces, another namespace, the resolvers of the node; the same without it holds."""
    bad: dict[str, Any] = {
        "cgroups": {"cgroups": ["/system.slice/sshd.service"]},
        "interfaces": {"interfaces": ["eth0"]},
        "nodes": {"pods": {"matchLabels": {"a": "b"}}, "nodes": {"role": "db"}},
        "elsewhere": {"pods": {"namespace": "kube-system"}},
    }
    for name, subject in bad.items():
        cluster.put("evil", name, {**RULES, "subject": subject})
    cluster.put("evil", "upstreams", {**RULES, "dns": {"upstreams": ["169.254.169.254"]}})
    cluster.put("evil", "ml--coder")
    cluster.put("evil", "fine", {**RULES, "subject": {"pods": {"matchLabels": {"a": "b"}}}})
    cluster.put("ml", "coder")

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("evil--fine", "ml--coder")
            for name in (*bad, "upstreams"):
                assert await stage.has("evil", name, "SubjectNotAllowed")
            assert "metadata.name" in await stage.has("evil", "ml--coder", "Invalid")
            assert stage.holdings == {"evil--fine", "ml--coder"}
            assert '"namespace": "evil"' in stage.text("evil--fine")

    asyncio.run(talk())


def test_a_name_that_people_have_is_theirs(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """Until they let go of it: then the object holds."""

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.serving.writing(policies.apply, [("x", policy_text("ml--coder", "people.example"))], change())
            await stage.becomes("ml--coder")
            cluster.put("ml", "coder", rules("tenant.example.com"))
            assert "kept in the plane's store" in await stage.has("ml", "coder", "NameTaken")
            assert "people.example" in stage.text("ml--coder")
            await stage.serving.writing(policies.remove, "ml--coder", change())
            await stage.has("ml", "coder", "Accepted")
            await stage.sees(lambda: "tenant.example.com" in stage.text("ml--coder"))

    asyncio.run(talk())


def test_what_went_while_the_plane_was_off_goes_when_it_is_back(
    cluster: FakeCluster, tmp_path: Path, papers: Authority
) -> None:
    """And nothing else: people's policies stay, and so does what has not changed."""
    cluster.put("ml", "stays")
    cluster.put("ml", "goes")
    cluster.put("", "base", BASE)

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.serving.writing(policies.apply, [("x", policy_text("by-people"))], change())
            await stage.becomes("ml--stays", "ml--goes", "base", "by-people")
        cluster.delete("ml", "goes")
        cluster.delete("", "base")
        cluster.forget()
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--stays", "by-people")
            told = await stage.history()
            assert told.count(("ml--stays", "apply")) == 1
            assert {("ml--goes", "remove"), ("base", "remove")} <= set(told)

    asyncio.run(talk())


def test_an_object_that_flaps_keeps_nobody_waiting_and_fills_nothing(
    cluster: FakeCluster, tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its namespace waits for its turn; what is written down has an end, and what it is at last holds."""
    monkeypatch.setattr(pace, "_AT_ONCE", 6.0)
    monkeypatch.setattr(pace, "_PER_S", 0.0)  # however long it takes here

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            for at in range(60):
                cluster.put("evil", "flaps", rules(f"h{at}.example.com"))
                await asyncio.sleep(0.05)
            cluster.put("evil", "flaps", rules("at-last.example.com"))
            cluster.put("ml", "coder")
            await stage.becomes("ml--coder", "evil--flaps")
            assert "it waits its turn" in await stage.has("evil", "flaps", "Pending")
            assert 2 <= (await stage.history()).count(("evil--flaps", "apply")) <= 7
            monkeypatch.setattr(pace, "_PER_S", 100.0)
            await stage.has("evil", "flaps", "Accepted")
            await stage.sees(lambda: "at-last.example.com" in stage.text("evil--flaps"))

    asyncio.run(talk())


def test_a_thousand_objects_are_no_matter(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """All of them, in pages; a change of one among them does not take longer for it."""
    for at in range(1000):
        cluster.put(f"team-{at % 20}", f"policy-{at}", rules(f"h{at}.example.com"))

    async def talk(stage: Stage) -> None:
        await stage.sees(lambda: len(stage.holdings) == 1000, 60)
        assert cluster.count("list") >= 11
        changes = len(await stage.history())
        assert changes == 1000
        cluster.put("team-3", "policy-3", rules("changed.example.com"))
        await stage.sees(lambda: "changed.example.com" in stage.text("team-3--policy-3"), 10)
        assert len(await stage.history()) == 1001

    async def run() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await talk(stage)

    asyncio.run(run())
