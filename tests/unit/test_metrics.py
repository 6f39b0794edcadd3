"""What Prometheus reads: every number under its documented name, few series, and clients that harm nobody."""

import http.client
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from exeat.errors import ExeatError, KernelError
from exeat.metrics import (
    Durations,
    Health,
    PlaneCounts,
    PolicyCounts,
    Registry,
    Server,
    Source,
    Use,
    WorkloadCounts,
    serve,
)
from exeat.metrics import server as metrics_server
from exeat.metrics.families import FAMILIES, HISTOGRAMS, TABLES, UNREAD
from exeat.metrics.server import CLIENTS_MAX
from exeat.metrics.workloads import WORKLOAD_FAMILIES
from exeat.model.identity import Who
from exeat.model.policy import Mode
from exeat.model.verdicts import Reason, Verdict
from exeat.settings import Listen

ROOT = Path(__file__).parents[2]
LOOPBACK = ip_address("127.0.0.1")
LONG = 50_000_000
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Agent:
    """An agent's numbers. Everything that can be there is there, or what a test puts."""

    table: Mapping[str, Use] = {name: Use(at, 10 * at) for at, name in enumerate([*TABLES, "more", "yet_more"], 1)}
    error: Exception | None = None

    def counters(self) -> Mapping[tuple[Verdict, Reason], int]:
        if self.error:
            raise self.error
        return {(verdict, reason): 100 * verdict + reason for verdict in Verdict for reason in Reason}

    def held_back(self) -> Mapping[Reason, int]:
        return {Reason.OUT_OF_ORDER: 5, Reason.BUSY: 1}

    def questions(self) -> Mapping[Verdict, int]:
        return {Verdict.FORWARDED: 7, Verdict.DROPPED: 2**60}

    def lost_events(self) -> int:
        return 3

    def unwritten(self) -> int:
        return 4

    def workloads(self) -> Mapping[tuple[Source, Mode], int]:
        return {(Source.SUBJECT, Mode.ENFORCE): 500, (Source.RUN, Mode.OPEN): 1}

    def policies(self) -> PolicyCounts:
        return PolicyCounts(50, 2)

    def endings_within(self) -> Mapping[int, int]:
        return {1: 1, 3: 3, 14: 4}

    def table_use(self) -> Mapping[str, Use]:
        return self.table

    def grants(self) -> int:
        return 12345

    def by_workload(self) -> list[WorkloadCounts]:
        if self.error:
            raise self.error
        counts = {Verdict.FORWARDED: 5, Verdict.DROPPED: 2**40}
        named = Who(container="coder", image="python:3", namespace="ml", pod="coder-1")
        return [
            WorkloadCounts("/b", Who(), {}, 0, 0),
            WorkloadCounts('/a"\udcff\n', named, counts, 7, 8),
        ]

    def plane(self) -> PlaneCounts | None:
        return PlaneCounts(True, 17, False, 5, 6)

    def started_s(self) -> float:
        return 1_780_000_000.5


def parsed(text: str) -> Samples:
    """Every sample, as Prometheus' own Python client reads it; none may be there twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


# The numbers


def test_every_number_arrives_under_its_name() -> None:
    """Read back by another's parser."""
    samples = parsed(Registry(Agent()).text())
    for verdict in Verdict:
        for reason in Reason:
            labels = (("reason", reason.word), ("verdict", verdict.name))
            assert samples["exeat_verdicts_total", labels] == 100 * verdict + reason
    assert samples["exeat_guest_frames_held_back_total", (("reason", "out_of_order"),)] == 5
    assert samples["exeat_questions_total", (("verdict", "FORWARDED"),)] == 7
    assert samples["exeat_questions_total", (("verdict", "DROPPED"),)] == 2**60
    assert samples["exeat_questions_total", (("verdict", "ERROR"),)] == 0
    assert samples["exeat_events_lost_total", ()] == 3
    assert samples["exeat_verdicts_unwritten_total", ()] == 4
    assert samples["exeat_workloads", (("mode", "enforce"), ("source", "subject"))] == 500
    assert samples["exeat_workloads", (("mode", "open"), ("source", "run"))] == 1
    assert samples["exeat_workloads", (("mode", "quarantine"), ("source", "registration"))] == 0
    assert samples["exeat_policies", (("state", "accepted"),)] == 50
    assert samples["exeat_policies", (("state", "rejected"),)] == 2
    assert [samples["exeat_endings", (("within_days", days),)] for days in ("1", "3", "14")] == [1, 3, 4]
    assert samples["exeat_table_entries", (("table", "workloads"),)] == 1
    assert samples["exeat_table_entries_max", (("table", "workloads"),)] == 10
    assert samples["exeat_grants", ()] == 12345
    assert samples["exeat_start_time_seconds", ()] == 1_780_000_000.5
    assert samples["exeat_unread_metrics", ()] == 0
    assert 5e6 < samples["exeat_resident_bytes", ()] < 1e9
    assert 0 < samples["exeat_cpu_seconds_total", ()] < 3600


def test_there_are_fewer_than_1000_series_whatever_happens() -> None:
    """Every verdict for every reason, and tables that nobody knew."""
    agent = Agent()
    agent.table = {f"table{number}": Use(1, 2) for number in range(5000)} | dict(Agent.table)
    samples = parsed(Registry(agent).text())
    assert len(samples) < 1000
    assert samples["exeat_table_entries", (("table", "other"),)] == 5000 + 2 * len(TABLES) + 3


def test_the_tables_are_maps_of_the_programs() -> None:
    """The kernel's own names."""
    text = "".join((ROOT / "bpf" / name).read_text() for name in ("maps.h", "guest_maps.h"))
    maps = set(re.findall(r'PIN_DIR "/(\w+)"', text))
    assert set(TABLES) <= maps


@pytest.mark.parametrize("error", [KernelError("the pins are gone"), OSError("no"), ExeatError("x")])
def test_what_cannot_be_read_is_missing_and_counted(error: Exception) -> None:
    """Zero would say that nothing was denied."""
    agent = Agent()
    agent.error = error
    samples = parsed(Registry(agent).text())
    assert samples["exeat_unread_metrics", ()] == 1
    assert not any(name == "exeat_verdicts_total" for name, _ in samples)
    assert samples["exeat_grants", ()] == 12345


def test_the_document_and_the_code_name_the_same_metrics() -> None:
    """Name, kind, labels and meaning, in their order; and all names begin with exeat_."""
    rows = re.findall(r"^\| `(exeat_\w+)` \| (\w+) \| (.*?) \| (.*?) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    expected = [
        (family.name, str(family.kind), ", ".join(f"`{label}`" for label in family.labels), family.what)
        for family in FAMILIES
    ]
    expected += [(name, "histogram", "", what) for name, what in HISTOGRAMS]
    expected += [(UNREAD[0], "gauge", "", UNREAD[1])]
    by_workload = [
        (name, str(kind), ", ".join(f"`{label}`" for label in labels), what)
        for name, kind, labels, what, _ in WORKLOAD_FAMILIES
    ]
    assert [(name, kind, labels.strip("-"), what) for name, kind, labels, what in rows] == expected + by_workload
    heads = re.findall(r"# TYPE (\w+) (\w+)", Registry(Agent()).text())
    assert heads == [(name, kind) for name, kind, _, _ in expected]
    assert "# HELP exeat_grants Pairs of name" in Registry(Agent()).text()


def test_every_workload_has_its_numbers_at_a_page_of_its_own() -> None:
    """Whatever it is called, prometheus_client reads it."""
    samples = parsed(Registry(Agent()).workloads_text())
    name = ("workload", '/a"\\udcff\n')
    info = dict.fromkeys(("unit", "sandbox", "session", "user"), "")
    info |= {"container": "coder", "image": "python:3", "namespace": "ml", "pod": "coder-1"}
    assert samples["exeat_workload_info", tuple(sorted([name, *info.items()]))] == 1
    assert samples["exeat_workload_verdicts_total", (("verdict", "DROPPED"), name)] == 2**40
    assert samples["exeat_workload_verdicts_total", (("verdict", "AUDIT"), ("workload", "/b"))] == 0
    assert samples["exeat_workload_sent_bytes_total", (name,)] == 7
    assert samples["exeat_workload_received_bytes_total", (name,)] == 8
    assert len(samples) == 2 * 7


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 9))))
def test_a_histogram_counts_as_prometheus_client_does(observed: list[tuple[float, int]]) -> None:
    """Also at the very end of a bucket, which belongs to it."""
    registry = Registry(Agent())
    oracle = Histogram("gate", "", registry=CollectorRegistry(), buckets=(0.5, 1.0, 2.0))
    ours = Durations((0.5, 1.0, 2.0))
    for seconds, count in [*observed, (0.5, 1), (2.0, 2)]:
        ours.observe(seconds, count)
        registry.gate_answer.observe(seconds, count)
        for _ in range(count):
            oracle.observe(seconds)
    (family,) = oracle.collect()
    values = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    counted = ours.counted()
    assert [values["gate_bucket", str(end)] for end in (0.5, 1.0, 2.0)] == [number for _, number in counted.buckets]
    assert values["gate_count", None] == counted.total
    assert counted.sum_s == pytest.approx(values["gate_sum", None])
    samples = parsed(registry.text())
    assert samples["exeat_gate_answer_seconds_bucket", (("le", "+Inf"),)] == counted.total
    assert samples["exeat_gate_answer_seconds_count", ()] == counted.total
    assert samples["exeat_policy_application_seconds_count", ()] == 0


def test_threads_lose_no_observation() -> None:
    """Each gate has a thread of its own."""
    durations = Durations((1.0,))

    def observe() -> None:
        for _ in range(20_000):
            durations.observe(0.5)

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(observe)
    assert durations.counted().total == 80_000


# The server


@contextmanager
def serving(complaints: list[str] | None = None, unready: list[str] | None = None) -> Iterator[Server]:
    """A server on a free port; it is stopped, and leaves no thread and no descriptor behind."""
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    health = Health(lambda: complaints or [], lambda: unready or [])
    server = serve(Listen(LOOPBACK, 0), health, Registry(Agent()))
    try:
        yield server
    finally:
        server.stop()
        server.stop()
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == fds


def get(server: Server, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    """Status, body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def test_metrics_are_served() -> None:
    """With the type that Prometheus asks for, whatever stands behind a question mark."""
    with serving() as server:
        for path in ("/metrics", "/metrics?name=x"):
            status, body, headers = get(server, path)
            assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
            assert parsed(body)["exeat_grants", ()] == 12345
        status, body, headers = get(server, "/metrics", "HEAD")
        assert (status, body) == (200, "")
        assert int(headers["Content-Length"]) > 1000


def test_health_says_what_is_wrong() -> None:
    """503 with a sentence; the twin is well. Readiness and liveness are two things."""
    with serving() as server:
        assert get(server, "/healthz")[:2] == get(server, "/readyz")[:2] == (200, "ok\n")
    with serving(complaints=["the loop of the gates has not turned for 31 s", "x"]) as server:
        assert get(server, "/healthz")[:2] == (503, "the loop of the gates has not turned for 31 s\nx\n")
        assert get(server, "/readyz")[0] == 200
    with serving(unready=["policies are being compiled"]) as server:
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/readyz")[:2] == (503, "policies are being compiled\n")


def test_what_is_not_there_is_said() -> None:
    """And nothing can be posted."""
    with serving() as server:
        assert get(server, "/")[:2] == (404, "there are /metrics, /metrics/workloads, /healthz, /readyz\n")
        assert get(server, "/metrics", "POST")[0] == 405


def test_an_address_that_is_taken_is_said() -> None:
    """With what to do about it; nothing is left open."""
    with serving() as server, pytest.raises(ExeatError) as refusal:
        serve(Listen(LOOPBACK, server.port), Health(list, list), Registry(Agent()))
    place = f"127.0.0.1:{server.port}"
    assert str(refusal.value).startswith(f"metrics cannot be served on {place}: Address already in use.")


def test_it_serves_on_ipv6_too() -> None:
    """The same pages."""
    server = serve(Listen(ip_address("::1"), 0), Health(list, list), Registry(Agent()))
    try:
        with socket.create_connection(("::1", server.port), timeout=5) as client:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().endswith(b"\r\n\r\nok\n")
    finally:
        server.stop()


def connect(server: Server) -> socket.socket:
    """A client that says nothing yet."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def is_closed(client: socket.socket) -> bool:
    """Whether the server has hung up, before the time is over that it gives a client."""
    client.settimeout(2)
    try:
        return client.recv(64) == b""
    except ConnectionResetError:
        return True


def test_many_silent_clients_keep_nobody_from_being_served() -> None:
    """Ten times as many as there may be: the eldest go, whoever asks is answered, and memory holds."""
    with serving() as server:
        silent = [connect(server) for _ in range(10 * CLIENTS_MAX)]
        assert get(server, "/healthz")[0] == 200
        assert is_closed(silent[0])
        assert threading.active_count() < 20
        for client in silent:
            client.close()


def drip(client: socket.socket) -> None:
    """Sends a request that never ends."""
    for byte in b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 1000:
        client.send(bytes([byte]))
        time.sleep(0.25)


def test_a_slow_client_is_cut_off_however_it_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte a second would keep a connection open for ever, were the time counted from the last byte."""
    monkeypatch.setattr(metrics_server, "DEADLINE_S", 1.5)
    with serving() as server:
        began = time.monotonic()
        dripping = connect(server)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            drip(dripping)
        assert 1 < time.monotonic() - began < 4
        dripping.close()
        assert get(server, "/healthz")[0] == 200


class LongText(Registry):
    """More than the kernel's buffers hold."""

    def text(self) -> str:
        return "x" * LONG


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer would wait in memory otherwise. The twin reads, and has all of it."""
    monkeypatch.setattr(metrics_server, "DEADLINE_S", 1.5)
    server = serve(Listen(LOOPBACK, 0), Health(list, list), LongText(Agent()))
    try:
        deaf = connect(server)
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert len(get(server, "/metrics")[1]) == LONG
        time.sleep(2)
        assert length_until_cut(deaf) < LONG
        deaf.close()
    finally:
        server.stop()


def length_until_cut(client: socket.socket) -> int:
    """How much the kernel still gives."""
    length = 0
    try:
        while data := client.recv(1 << 20):
            length += len(data)
    except ConnectionResetError:
        return length
    return length


@pytest.mark.parametrize(
    "garbage", [b"\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics", b"x" * 100_000]
)
def test_garbage_is_answered_or_cut_off(garbage: bytes) -> None:
    """And the next client is served."""
    with serving() as server:
        client = connect(server)
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        try:
            answer = client.recv(64)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 40")
        client.close()
        assert get(server, "/healthz")[0] == 200


def test_an_idle_server_uses_no_processor() -> None:
    """It waits, and does not look around."""
    with serving() as server:
        get(server, "/healthz")
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.01


def test_an_agent_without_a_plane_says_nothing_of_one() -> None:
    """A zero would be an alarm; with a plane the numbers are its own."""

    class Alone(Agent):
        def plane(self) -> PlaneCounts | None:
            return None

    samples = parsed(Registry(Agent()).text())
    assert samples["exeat_plane_connected", ()] == 1
    assert samples["exeat_plane_serial", ()] == 17
    assert samples["exeat_plane_lost_lines_total", ()] == 6
    assert not any(name.startswith("exeat_plane") for name, _ in parsed(Registry(Alone()).text()))
