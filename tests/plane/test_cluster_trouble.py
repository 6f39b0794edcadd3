"""Whatever becomes of the API server, what held last holds on; and when it is well again, nothing was missed."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exeat.errors import ExeatError
from exeat.plane.cluster import api_server, following, lease, shelf
from exeat.plane.cluster.api_server import server_of
from exeat.plane.cluster.reconcile import Reconciler
from exeat.plane.settings import ClusterPlace
from exeat.plane.store.database import StoreError
from plane.certificates import Authority, authority
from plane.cluster_api import CLUSTER, NAMESPACED, FakeCluster, fake_cluster, rules, served
from plane.cluster_stage import hurry, staged
from plane.postgres import new_database
from plane.processes import PlaneProcess, plane_process
from plane.serving import until
from plane.simulated import SimulatedAgent, running

BASE = rules("base.example.com", subject={"cgroups": ["/agents.slice"]})
EMPTY = {"apiVersion": "exeat.dev/v1", "kind": "EgressPolicyList", "metadata": {"resourceVersion": "9999"}}


@pytest.fixture
def papers(tmp_path: Path) -> Authority:
    """Who vouches for whom."""
    return authority(tmp_path / "papers")


@pytest.fixture
def cluster(tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    """One with two objects."""
    hurry(monkeypatch)
    with fake_cluster(tmp_path, papers) as found:
        found.put("ml", "a")
        found.put("ml", "b")
        yield found


def relist(cluster: FakeCluster) -> None:
    """Whoever watches has to begin anew."""
    cluster.forget()
    cluster.break_watches()


def refuse(code: int) -> Callable[[FakeCluster], None]:
    """The API server answers to everything with this."""

    def begin(cluster: FakeCluster) -> None:
        cluster.refusals = {"list": code, "watch": code}
        relist(cluster)

    return begin


def garble(content: Any) -> Callable[[FakeCluster], None]:
    """It answers to lists with this."""

    def begin(cluster: FakeCluster) -> None:
        cluster.garbage["list"] = content if isinstance(content, bytes) else json.dumps(content).encode()
        relist(cluster)

    return begin


def garble_watches(cluster: FakeCluster) -> None:
    """It tells what is no event, and lists are refused meanwhile."""
    cluster.garbage["watch"] = b'{"type": "DELETED"}\n'
    cluster.refusals["list"] = 500
    cluster.break_watches()


def turn_off_tokens(cluster: FakeCluster) -> None:
    """The token has ended."""
    cluster.tokens = {"second"}
    relist(cluster)


def uninstall(cluster: FakeCluster) -> None:
    """Somebody has removed the definitions."""
    cluster.missing = {NAMESPACED, CLUSTER}
    relist(cluster)


def recover(cluster: FakeCluster) -> None:
    """All is well again; the token is another one."""
    cluster.refusals, cluster.garbage, cluster.missing = {}, {}, set()
    cluster.tokens = {"second"}
    cluster.token.write_text("second\n")


def asked_for(cluster: FakeCluster) -> int:
    """How often the objects of namespaces were asked for."""
    return cluster.asked.count(("list", NAMESPACED))


TROUBLES = {
    "server error": (refuse(500), "it answers 500"),
    "forbidden": (refuse(403), "let the plane's ServiceAccount get, list and watch them"),
    "too many": (refuse(429), "it answers 429"),
    "redirected": (refuse(302), "it answers 302"),
    "token ended": (turn_off_tokens, "is it this cluster's, and has it not ended?"),
    "not installed": (uninstall, "is the CustomResourceDefinition of exeat.dev/v1 installed?"),
    "nothing": (garble(b""), "what came is no JSON"),
    "a page": (garble(b"<html>sign in</html>"), "what came is no JSON"),
    "a status": (garble({"kind": "Status", "status": "Success"}), "with something else"),
    "another list": (garble({**EMPTY, "kind": "PodList", "items": []}), "with something else"),
    "no items": (garble({**EMPTY, "items": None}), "with something else"),
    "no version": (garble({**EMPTY, "metadata": {}, "items": []}), "has no resourceVersion"),
    "no object": (garble({**EMPTY, "items": [{}]}), "that is no object"),
    "an older one": (garble({**EMPTY, "metadata": {"resourceVersion": "5"}, "items": []}), "is of version 5"),
    "no end": (garble({**EMPTY, "metadata": {"continue": ["x"]}, "items": []}), "has no end"),
    "no event": (garble_watches, "that is no object"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_held_holds_on_and_nothing_is_missed(
    cluster: FakeCluster, tmp_path: Path, papers: Authority, trouble: str
) -> None:
    """One object changes, one goes, one comes while nobody is told; people are told why they wait."""
    begin, sentence = TROUBLES[trouble]
    cluster.watch_s = 0.5

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b")
            begin(cluster)
            await stage.sees(lambda: any(sentence in one for one in stage.controller.problems()))
            cluster.put("ml", "a", rules("changed.example.com"))
            cluster.delete("ml", "b")
            cluster.put("ml", "c")
            if trouble != "no event":
                cluster.forget()
            asked = asked_for(cluster)
            await stage.sees(lambda: asked_for(cluster) > asked + 1)  # so the answer before has had its effect, if any
            assert stage.holdings == {"ml--a", "ml--b"}
            assert "changed" not in stage.text("ml--a")
            recover(cluster)
            await stage.becomes("ml--a", "ml--c")
            assert "changed.example.com" in stage.text("ml--a")
            await stage.sees(lambda: stage.controller.problems() == ())

    asyncio.run(talk())


def test_a_server_that_goes_and_comes_back_is_followed_again(
    cluster: FakeCluster, tmp_path: Path, papers: Authority
) -> None:
    """The connection breaks, nobody listens for a while; the watch goes on where it was, without a list."""

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b")
            for _ in range(3):
                cluster.break_watches()
                await asyncio.sleep(0.3)
            lists = cluster.count("list")
            cluster.delete("ml", "b")
            await stage.becomes("ml--a")
            assert cluster.count("list") == lists == 2

    asyncio.run(talk())


def test_a_server_that_is_away_for_a_while(tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the plane's start: it serves agents what it has."""
    hurry(monkeypatch)
    cluster = FakeCluster(tmp_path / "cluster", papers)

    async def talk() -> None:
        with served(cluster):
            cluster.put("ml", "a")
            cluster.put("ml", "b")
            async with staged(cluster, tmp_path, papers) as stage:
                await stage.becomes("ml--a", "ml--b")
        cluster.delete("ml", "b")
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b")
            await stage.sees(lambda: any("does not list" in one for one in stage.controller.problems()))
            with served(cluster):
                await stage.becomes("ml--a")

    asyncio.run(talk())


def test_a_list_in_pages_is_of_one_moment(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """Where the server has forgotten the pages in between, the list begins anew."""
    for at in range(10):
        cluster.put("ml", f"p{at}")
    cluster.page_max = 3
    cluster.are_continues_lost = 2

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.sees(lambda: len(stage.holdings) == 12)
            assert cluster.are_continues_lost == 0
            relist(cluster)
            cluster.are_continues_lost = 2
            cluster.delete("ml", "p3")
            await stage.sees(lambda: len(stage.holdings) == 11)
            assert ("ml--p4", "remove") not in await stage.history()

    asyncio.run(talk())


def test_pages_that_are_too_large_are_asked_for_in_smaller_ones(
    cluster: FakeCluster, tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that huge objects fill no memory; small ones beside them come through."""
    monkeypatch.setattr(api_server, "_ANSWER_MAX", 300_000)
    hosts = [f"host-{at:05}.example.com" for at in range(6000)]
    for at in range(6):
        cluster.put("huge", f"h{at}", rules(*hosts))

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.sees(lambda: {"ml--a", "ml--b", "huge--h5"} <= stage.holdings, 30)
            assert len(stage.holdings) == 8

    asyncio.run(talk())


def test_a_cluster_that_was_brought_back_from_a_copy_counts_after_a_while(
    cluster: FakeCluster, tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are older than what is known; a server that only lags behind would look the same."""
    monkeypatch.setattr(following, "_LISTED_S", 1.0)
    cluster.watch_s = 0.5

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            for at in range(300):
                cluster.put("ml", "a", rules(f"h{at}.example.com"))
            await stage.sees(lambda: stage.holdings and "h299." in stage.text("ml--a"))
            cluster.delete("ml", "b")
            await stage.becomes("ml--a")
            cluster.put("ml", "b")
            cluster.go_back(250)
            cluster.break_watches()
            await stage.sees(lambda: any("is known already" in one for one in stage.controller.problems()))
            assert stage.holdings == {"ml--a"}
            monkeypatch.setattr(shelf, "DOUBTED_S", 0.5)
            await stage.becomes("ml--a", "ml--b")

    asyncio.run(talk())


def test_a_kind_that_is_not_there_keeps_the_other_one_from_nothing(
    cluster: FakeCluster, tmp_path: Path, papers: Authority
) -> None:
    """Only of a kind that is known whole anything is taken away."""
    cluster.put("", "base", BASE)

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b", "base")
        cluster.missing = {CLUSTER}
        cluster.delete("ml", "b")
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "base")
            cluster.put("ml", "c")
            await stage.becomes("ml--a", "ml--c", "base")
            assert len(stage.controller.problems()) == 1

    asyncio.run(talk())


def test_a_server_that_shows_anothers_certificate_gets_no_token(
    cluster: FakeCluster, tmp_path: Path, papers: Authority
) -> None:
    """By another authority, or for another name; the right one beside it is followed."""
    (tmp_path / "other").mkdir()
    other = authority(tmp_path / "other" / "papers")
    right = cluster.authority.ca
    copy = tmp_path / "ca.pem"
    shutil.copy(other.ca, copy)
    place = ClusterPlace(cluster.url, copy, cluster.token)

    class Elsewhere(FakeCluster):
        @property
        def place(self) -> ClusterPlace:
            return place

    cluster.__class__ = Elsewhere

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.sees(lambda: any("certificate verify failed" in one for one in stage.controller.problems()))
            assert cluster.asked == []
            shutil.copy(right, copy)
            await stage.becomes("ml--a", "ml--b")

    asyncio.run(talk())


def test_a_status_that_cannot_be_written_is_told_and_tried_again(
    cluster: FakeCluster, tmp_path: Path, papers: Authority
) -> None:
    """The policy holds all the same; conflicts are nobody's concern."""
    cluster.refusals["status"] = 403

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b")
            await stage.sees(lambda: any("does not write the status" in one for one in stage.controller.problems()))
            cluster.refusals["status"] = 409
            await stage.sees(lambda: stage.controller.problems() == ())
            cluster.refusals.clear()
            await stage.has("ml", "a", "Enforced", "Enforced")

    asyncio.run(talk())


def test_a_store_that_is_away_loses_no_change(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """What came meanwhile is placed when it is back."""

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b")
            reconciler = stage.controller._reconciler
            assert reconciler
            store, reconciler._database = reconciler._database, _Broken()  # type: ignore[assignment]
            cluster.delete("ml", "b")
            cluster.put("ml", "c")
            await stage.sees(lambda: "the network is gone" in stage.controller.problems())
            assert stage.holdings == {"ml--a", "ml--b"}
            reconciler._database = store
            await stage.becomes("ml--a", "ml--c")
            assert stage.controller.problems() == ()

    asyncio.run(talk())


def test_a_mistake_of_ours_ends_no_plane(
    cluster: FakeCluster, tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents stay connected; following the cluster begins again from its list, and says what it was."""
    pass_once = Reconciler.pass_once

    async def fails(reconciler: Reconciler) -> bool:
        raise RuntimeError("a mistake")

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.becomes("ml--a", "ml--b")
            monkeypatch.setattr(Reconciler, "pass_once", fails)
            cluster.put("ml", "c")
            await stage.sees(lambda: any("RuntimeError: a mistake" in one for one in stage.controller.problems()))
            assert stage.agent.standing.is_connected
            monkeypatch.setattr(Reconciler, "pass_once", pass_once)
            await stage.becomes("ml--a", "ml--b", "ml--c")
            assert stage.agent.away == []

    asyncio.run(talk())


def test_one_replica_follows_and_another_takes_over(
    cluster: FakeCluster, tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first has gone without a word, the second knows what has changed since. Nothing is done twice."""
    monkeypatch.setattr(lease, "release", lambda tx, who: None)
    monkeypatch.setattr(lease, "LEASE_NS", 6 * 10**9)  # a busy machine must not take it from the first
    store = new_database()

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers, store) as second:
            await second.becomes("ml--a", "ml--b")
            async with staged(cluster, tmp_path, papers, store) as third:
                await third.becomes("ml--a", "ml--b")
                assert (second.controller.is_leading, third.controller.is_leading) == (True, False)
                cluster.put("ml", "c")
                await second.becomes("ml--a", "ml--b", "ml--c")
                second.serving.daemon._cluster._database = _Broken()  # type: ignore[union-attr, assignment]
                cluster.delete("ml", "b")
                await third.sees(lambda: third.controller.is_leading)
                await third.becomes("ml--a", "ml--c")
                await second.becomes("ml--a", "ml--c")
                told = await third.history()
                assert sorted(told) == sorted(
                    [("ml--a", "apply"), ("ml--b", "apply"), ("ml--c", "apply"), ("ml--b", "remove")]
                )

    asyncio.run(talk())


class _Broken:
    """A store that a replica no longer reaches."""

    def reading(self) -> Any:
        """Never."""
        raise StoreError("the network is gone")

    writing = reading


def test_in_a_pod_the_server_is_the_clusters_own() -> None:
    """By Kubernetes' variables; elsewhere, a sentence says what to write."""
    place = ClusterPlace("", Path("/ca"), Path("/token"))
    variables = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert server_of(place, variables) == "https://10.96.0.1:443"
    assert server_of(place, {**variables, "KUBERNETES_SERVICE_HOST": "fd00::1"}) == "https://[fd00::1]:443"
    assert server_of(ClusterPlace("https://a:6443", Path("/ca"), Path("/token")), variables) == "https://a:6443"
    with pytest.raises(ExeatError, match="there is no KUBERNETES_SERVICE_HOST"):
        server_of(place, {})


def test_a_plane_as_a_process_follows_its_settings(cluster: FakeCluster, tmp_path: Path, papers: Authority) -> None:
    """It counts the objects, ends in order while it watches, and writes no token anywhere."""
    (cluster.token).write_text("a-secret-token\n")
    cluster.tokens = {"a-secret-token"}
    cluster.put("ml", "bad", {})
    more = f"  cluster: {{server: '{cluster.url}', ca: {papers.ca}, token: {cluster.token}}}\n"
    plane = PlaneProcess(tmp_path, papers, f"sqlite:{tmp_path}/plane.db", more=more)

    async def talk() -> None:
        agent = SimulatedAgent("node-1.test")
        async with running([agent], plane.access):
            await until(lambda: set(agent.holdings) == {"ml--a", "ml--b"})
            await until(lambda: cluster.condition("ml", "a")[0] == "True")
        assert plane.metric('exeat_plane_cluster_objects{state="accepted"}') == 2
        assert plane.metric('exeat_plane_cluster_objects{state="refused"}') == 1
        assert plane.metric('exeat_plane_policies{source="cluster"}') == 2
        assert plane.metric("exeat_plane_cluster_leads") == 1
        assert plane.metric("exeat_plane_cluster_problems") == 0

    with plane_process(plane):
        asyncio.run(talk())
        assert plane.stop() == 0
        assert "Traceback" not in plane.said()
        assert "a-secret-token" not in plane.said()


def test_a_server_that_never_answers_keeps_nobody_waiting(
    tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes connections and says nothing: the plane starts, serves, and ends all the same."""
    hurry(monkeypatch)
    monkeypatch.setattr(api_server, "_CONNECT_S", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                accepted.append(silent.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept)
    thread.start()
    cluster = FakeCluster(tmp_path / "cluster", papers, url=f"https://127.0.0.1:{silent.getsockname()[1]}")

    async def talk() -> None:
        async with staged(cluster, tmp_path, papers) as stage:
            await stage.sees(lambda: bool(stage.controller.problems()) and stage.agent.standing.is_connected)
            assert "does not list" in stage.controller.problems()[0]

    try:
        asyncio.run(talk())
    finally:
        silent.shutdown(socket.SHUT_RDWR)
        silent.close()
        thread.join(5)
        for one in accepted:
            one.close()
    assert accepted
    assert not thread.is_alive()
