"""`exeat plane serve`: a process that starts, ends in order, survives its store's absence, and has others beside it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from exeat.audit.signing import Verifier
from exeat.control import plane_client
from exeat.control.backoff import Backoff
from exeat.plane import people
from exeat.plane.nodes import nodes
from exeat.plane.policies import policies
from exeat.plane.store.database import open_database
from plane.certificates import Authority, authority
from plane.postgres import Cluster, own_cluster
from plane.processes import PlaneProcess, free_port, plane_process
from plane.serving import until
from plane.simulated import SimulatedAgent, running
from plane.stores import KINDS, change, policy_text, url_of

EXEAT = (sys.executable, "-m", "exeat.cli.main")


@pytest.fixture
def papers(tmp_path: Path) -> Authority:
    """Who vouches for whom."""
    return authority(tmp_path / "papers")


def apply(url: str, *texts: str) -> None:
    """By another process than the plane."""
    database = open_database(url)
    try:
        with database.writing() as tx:
            policies.apply(tx, [("test", text) for text in texts], change(time.time_ns()))
    finally:
        database.close()


def tell(cluster: Cluster, what: str) -> None:
    """By a process of its own: a change of user makes Python fork, which gRPC in this process does not survive."""
    code = (
        "import sys; from pathlib import Path; from plane.postgres import Cluster; "
        "getattr(Cluster(Path(sys.argv[1]), Path(sys.argv[2])), sys.argv[3])()"
    )
    command = [sys.executable, "-c", code, str(cluster.place), str(cluster.binaries), what]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})


def apply_at(plane: PlaneProcess, token: str, text: str) -> None:
    """As `exeat plane policies apply` does."""
    plane.post("/api/v1/policies", token, {"documents": [{"where": "test", "text": text}], "reason": "test"})


def admin_at(url: str) -> str:
    """A token."""
    database = open_database(url)
    try:
        with database.writing() as tx:
            return people.add(tx, people.TokenWish("test", people.Role.ADMIN), time.time_ns())
    finally:
        database.close()


@pytest.mark.parametrize("kind", KINDS)
def test_it_serves_agents_and_pages_and_ends_in_order(
    tmp_path: Path, papers: Authority, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stopped, its agents come back to the next one, which knows what they have; killed, too."""
    monkeypatch.setattr(plane_client, "Backoff", lambda: Backoff(most_s=0.5))
    url = url_of(kind, tmp_path)
    apply(url, policy_text("p"))

    async def talk(plane: PlaneProcess) -> None:
        agents = [SimulatedAgent(f"node-{number}.test") for number in range(4)]
        async with running(agents, plane.access):
            await until(lambda: all(agent.holdings for agent in agents))
            enforced = [len(agent.ground.enforced) for agent in agents]
            assert await asyncio.to_thread(plane.metric, "exeat_plane_connected_nodes") == 4
            assert await asyncio.to_thread(plane.metric, 'exeat_plane_web_requests_total{status="2xx"}') > 0
            for is_orderly in (True, False):
                if is_orderly:
                    assert await asyncio.to_thread(plane.stop) == 0
                else:
                    await asyncio.to_thread(plane.kill)
                await until(lambda: not any(agent.standing.is_connected for agent in agents))
                await asyncio.to_thread(plane.start)
                await until(lambda: all(agent.standing.is_connected for agent in agents), 30)
            await asyncio.sleep(0.3)
            assert [len(agent.ground.enforced) for agent in agents] == enforced
            assert "this plane ends" in "".join(agents[0].away)
        assert await asyncio.to_thread(plane.stop) == 0
        assert "Traceback" not in plane.said()

    with plane_process(PlaneProcess(tmp_path, papers, url)) as plane:
        asyncio.run(talk(plane))


def test_several_replicas_beside_one_store_are_one_plane(tmp_path: Path, papers: Authority) -> None:
    """What is changed through one arrives through the other; an agent whose replica dies goes to the other."""
    url = url_of("postgresql", tmp_path)
    one, two = (PlaneProcess(tmp_path, papers, url, f"plane-{number}") for number in (1, 2))
    token = admin_at(url)

    async def talk() -> None:
        first = [SimulatedAgent(f"a{number}.test") for number in range(3)]
        second = [SimulatedAgent(f"b{number}.test") for number in range(3)]
        both = first + second
        async with (
            running(first, lambda node: papers.node(node, one.agents_port, two.agents_port)),
            running(second, lambda node: papers.node(node, two.agents_port)),
        ):
            await until(lambda: all(agent.standing.bundle for agent in both))
            assert [agent.standing.name for agent in both] == ["plane-1"] * 3 + ["plane-2"] * 3
            began = time.monotonic()
            await asyncio.to_thread(apply_at, two, token, policy_text("p"))
            await until(lambda: all(agent.holdings for agent in both))
            assert time.monotonic() - began < 5
            await asyncio.to_thread(one.kill)
            await until(lambda: all(agent.standing.name == "plane-2" for agent in first), 20)
            await asyncio.to_thread(apply_at, two, token, policy_text("q"))
            await until(lambda: all(len(agent.holdings) == 2 for agent in both))
        database = open_database(url)
        with database.reading() as tx:
            assert {node.replica for node in nodes.nodes(tx)} == {"plane-2"}
        database.close()

    with plane_process(one), plane_process(two):
        asyncio.run(talk())


def test_a_second_plane_is_kept_off_a_file(tmp_path: Path, papers: Authority) -> None:
    """It would not hear what the first one changes. Once that has ended, even by a crash, the file is free."""
    one, two = (PlaneProcess(tmp_path, papers, url_of("sqlite", tmp_path), f"plane-{number}") for number in (1, 2))
    with plane_process(one):
        with pytest.raises(RuntimeError, match="another plane works on"):
            two.start()
        assert one.is_well()
        one.kill()
        with plane_process(two):
            assert two.is_well()


def test_a_node_that_has_gone_to_another_replica_is_no_longer_at_the_first(tmp_path: Path, papers: Authority) -> None:
    """Two agents by the same name: the newer one stays, the older one is told why."""
    url = url_of("postgresql", tmp_path)
    one, two = (PlaneProcess(tmp_path, papers, url, f"plane-{number}") for number in (1, 2))

    async def talk() -> None:
        older, newer = SimulatedAgent("a.test", start="1"), SimulatedAgent("a.test", start="2")
        async with running([older], one.access):
            await until(lambda: older.standing.is_connected)
            async with running([newer], two.access):
                await until(lambda: bool(older.away))
                assert "a.test has connected to plane-2 since" in older.away[0]

    with plane_process(one), plane_process(two):
        asyncio.run(talk())


def test_while_the_store_is_away_agents_stay_and_then_get_what_is_new(tmp_path: Path, papers: Authority) -> None:
    """PostgreSQL crashes and comes back; health tells it, and no agent loses its stream."""
    with own_cluster() as cluster:
        url = cluster.url
        plane = PlaneProcess(tmp_path, papers, url)

        async def talk() -> None:
            agents = [SimulatedAgent(f"node-{number}.test") for number in range(3)]
            late = SimulatedAgent("late.test")
            async with running(agents, plane.access):
                await until(lambda: all(agent.standing.bundle for agent in agents))
                await asyncio.to_thread(tell, cluster, "stop")
                assert not await asyncio.to_thread(plane.is_well)
                async with running([late], plane.access):
                    await until(lambda: bool(late.away), 20)
                    assert "the plane's store cannot be asked" in late.away[0]
                    await asyncio.to_thread(tell, cluster, "start")
                    await asyncio.to_thread(apply, url, policy_text("p"))
                    await until(lambda: all(agent.holdings for agent in (*agents, late)), 30)
                assert all(agent.away == [] for agent in agents)
            assert await asyncio.to_thread(plane.is_well)

        with plane_process(plane):
            asyncio.run(talk())
            assert plane.stop() == 0
            assert "Traceback" not in plane.said()


def test_policies_in_a_directory_are_followed(tmp_path: Path, papers: Authority) -> None:
    """A change of a file arrives; a bad one leaves all as it is and is counted."""
    directory = tmp_path / "policies.d"
    directory.mkdir()
    (directory / "p.yaml").write_text(policy_text("p"))
    plane = PlaneProcess(tmp_path, papers, url_of("sqlite", tmp_path), more=f"  policies: {directory}\n")

    async def talk() -> None:
        agent = SimulatedAgent("node-1.test")
        async with running([agent], plane.access):
            await until(lambda: set(agent.holdings) == {"p"})
            (directory / "q.yaml").write_text(policy_text("q"))
            await until(lambda: set(agent.holdings) == {"p", "q"})
            (directory / "q.yaml").write_text("nonsense")
            await until(lambda: plane.metric("exeat_plane_directory_problems") > 0)
            assert set(agent.holdings) == {"p", "q"}

    with plane_process(plane):
        asyncio.run(talk())


def test_with_a_key_all_is_signed(tmp_path: Path, papers: Authority) -> None:
    """The key is made at the first start; an agent with its public half takes the push, one with another does not."""
    key = tmp_path / "keys" / "plane.key"
    plane = PlaneProcess(tmp_path, papers, url_of("sqlite", tmp_path), more=f"  signing_key: {key}\n")

    async def talk() -> None:
        public, other = key.with_suffix(".pub"), tmp_path / "other.pub"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "o.key")], check=True)
        subprocess.run(["openssl", "pkey", "-in", str(tmp_path / "o.key"), "-pubout", "-out", str(other)], check=True)
        good, bad = SimulatedAgent("good.test", key=public), SimulatedAgent("bad.test", key=other)
        async with running([good, bad], plane.access):
            await until(lambda: good.standing.bundle is not None and bool(bad.standing.refused))
            assert "signed by key" in bad.standing.refused
            assert bad.standing.bundle is None
        assert f"signs with key {Verifier.of(public).id}" in plane.said()
        assert f"bad.test takes what is signed with ['{Verifier.of(other).id}']" in plane.said()

    with plane_process(plane):
        asyncio.run(talk())


def test_the_console_with_a_certificate_speaks_tls_and_takes_a_renewed_one(tmp_path: Path, papers: Authority) -> None:
    """And nothing else on that port."""
    certificate, key = papers.signer.issue("localhost", file="console")
    port = free_port()
    more = f"  web: {{listen: '127.0.0.1:{port}', certificate: {certificate}, key: {key}}}\n"
    plane = PlaneProcess(tmp_path, papers, url_of("sqlite", tmp_path), more=more, web_port=port)
    context = ssl.create_default_context(cafile=str(papers.ca))

    def serial() -> str:
        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            found = context.wrap_socket(plain, server_hostname="localhost").getpeercert()
        assert found
        return str(found["serialNumber"])

    with plane_process(plane):
        with urllib.request.urlopen(f"https://localhost:{port}/healthz", context=context, timeout=5) as answer:
            assert answer.read() == b"ok\n"
        first = serial()
        renewed, new_key = papers.signer.issue("localhost", file="renewed")
        shutil.copy(renewed, certificate)
        shutil.copy(new_key, key)
        deadline = time.monotonic() + 20
        while serial() == first:
            assert time.monotonic() < deadline, "the renewed certificate is not taken"
            time.sleep(0.5)


def test_what_keeps_it_from_starting_is_said_in_a_sentence(tmp_path: Path, papers: Authority) -> None:
    """A port that is taken, a store that is none, a certificate that is missing; then it starts."""
    url = url_of("sqlite", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for sentence, how in (
            ("the console cannot be served on 127.0.0.1", {"web_port": port}),
            ("name another `agents.listen`", {"agents_port": port}),
            ("is no store", {"store": "plane.db"}),
            ("write the whole path", {"more": "  policies: relative\n"}),
        ):
            given = {"store": url} | how
            plane = PlaneProcess(tmp_path, papers, **given)  # type: ignore[arg-type]
            with pytest.raises(RuntimeError) as caught, plane_process(plane):
                pass
            assert sentence in str(caught.value)
            assert "Traceback" not in str(caught.value)
            plane.config.with_suffix(".log").unlink()
    with plane_process(PlaneProcess(tmp_path, papers, url)) as plane:
        assert plane.is_well()


def test_a_second_signal_does_not_hurry_it(tmp_path: Path, papers: Authority) -> None:
    """Open pages are ended after a moment, whatever they wait for."""
    with plane_process(PlaneProcess(tmp_path, papers, url_of("sqlite", tmp_path))) as plane:
        assert plane.process
        with socket.create_connection(("127.0.0.1", plane.web_port)) as idle:
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            began = time.monotonic()
            plane.process.send_signal(signal.SIGTERM)
            plane.process.send_signal(signal.SIGINT)
            assert plane.process.wait(15) == 0
            assert time.monotonic() - began < 10


def test_the_command_knows_where_its_settings_are() -> None:
    """By default in /etc/exeat."""
    done = subprocess.run([*EXEAT, "plane", "serve", "--help"], capture_output=True, text=True, check=True)
    assert "/etc/exeat/plane.yaml" in done.stdout
