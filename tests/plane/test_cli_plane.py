"""`exeat plane …` against a plane that answers: what is shown, what it does there, and how it ends."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bed.certificates import Authority
from exeat.cli import plane_tokens
from exeat.cli.main import main
from exeat.plane import people
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.store.database import open_database
from exeat.v1 import plane_pb2
from plane.plane_stage import CODER, Stage, Told, open_stage, put_policy, store, tell
from plane.stores import ack, come, nack
from plane.test_plane_api import line

EXEAT = (sys.executable, "-m", "exeat.cli.main")
EVIL = "evil\x1b[2J\u202e.test"


@pytest.fixture(name="stage", scope="module")
def a_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for the file: its tests use names of their own."""
    with open_stage(tmp_path_factory.mktemp("plane")) as stage:
        yield stage


class Terminal:
    """Runs commands in this process, as somebody with a role."""

    def __init__(self, stage: Stage, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.stage, self._capsys, self._patch = stage, capsys, patch
        patch.setenv("EXEAT_PLANE", stage.url)
        self.become("admin")

    def become(self, role: str) -> None:
        self._patch.setenv("EXEAT_PLANE_TOKEN", self.stage.tokens[role])

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit status, output and errors."""
        try:
            status = main(["plane", *words])
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = self._capsys.readouterr()
        return status, out, err

    def ok(self, *words: str) -> str:
        """The output of what must go well."""
        status, out, err = self.run(*words)
        assert (status, err) == (0, ""), err
        return out

    def json(self, *words: str) -> Any:
        """The same, read."""
        return json.loads(self.ok(*words, "-o", "json"))


@pytest.fixture(name="terminal")
def a_terminal(stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """As an admin, until it becomes somebody else."""
    return Terminal(stage, capsys, monkeypatch)


def rows(out: str) -> dict[str, list[str]]:
    """Lines of a table by their first word."""
    return {words[0]: words for one in out.splitlines() if (words := one.split())}


def test_nodes_say_what_they_enforce_and_why_not(terminal: Terminal) -> None:
    """In a table, in detail and as JSON."""
    with terminal.stage.database.writing() as tx:
        come(tx, "web-1", {"role": "sandbox"}, time.time_ns())
        ack(tx, "web-1", (("coder", "ab12cd34" * 8),), time.time_ns())
        come(tx, "web-2", {}, time.time_ns())
        nack(tx, "web-2", f"coder:7: {EVIL}", time.time_ns())
    found = rows(terminal.ok("nodes"))
    assert found["web-1"][1:3] == ["current", "coder@ab12cd3"]
    assert found["web-2"][1] == "refused"
    details = terminal.ok("nodes", "web-2")
    assert "coder:7: evil\\x1b[2J\\u202e.test" in details
    assert "\x1b" not in details
    assert terminal.json("nodes", "show", "web-1")["holdings"][0]["name"] == "coder"
    assert "role=sandbox" in terminal.ok("nodes", "web-1")


def test_nodes_are_added_labelled_retired_and_let_in(terminal: Terminal) -> None:
    """One verb each."""
    assert "never" in terminal.ok("nodes", "add", "n-9", "tier=1")
    assert "set here: tier=1,zone=b" in terminal.ok("nodes", "label", "n-9", "zone=b")
    assert "set here: zone=b" in terminal.ok("nodes", "label", "n-9", "tier-")
    assert "retired" in terminal.ok("nodes", "retire", "n-9")
    assert "never" in terminal.ok("nodes", "activate", "n-9")
    for words in (["nodes", "add"], ["nodes", "label", "n-9", "zone"], ["nodes", "a", "b"], ["nodes", "retire"]):
        assert terminal.run(*words)[0] == 2, words
    assert terminal.run("nodes", "n-none")[0] == 1


def test_workloads_are_listed_and_filtered(terminal: Terminal) -> None:
    """With the mode that holds."""
    state = plane_pb2.WorkloadState(name="/agents/w", cgroup="/agents/w", policies=["coder"], mode=4, source="subject")
    with terminal.stage.database.writing() as tx:
        come(tx, "wl-1")
        workloads.put(tx, "wl-1", plane_pb2.WorkloadNews(is_all=True, workloads=[state]))
    assert rows(terminal.ok("workloads", "--node", "wl-1"))["wl-1//agents/w"][1:3] == ["quarantine", "coder"]
    assert terminal.ok("workloads", "nowhere") == "no such workload\n"


def test_policies_from_a_file_to_the_nodes_and_back(terminal: Terminal, tmp_path: Path) -> None:
    """Looked at, applied, rolled back, removed; and what was done is told."""
    file = tmp_path / "p.yaml"
    file.write_text(CODER.replace("coder", "cli-p"))
    assert terminal.run("policies", "diff", str(file))[0] == 1
    assert "would be" in terminal.ok("policies", "apply", str(file), "--dry-run")
    assert terminal.run("policies", "show", "cli-p")[0] == 1
    out = terminal.ok("policies", "apply", str(file), "--reason", "begin")
    assert "opens api.example.com:443 (tls)" in out
    assert terminal.ok("policies", "diff", str(file)) == "a workload feels no difference\n"
    assert "as it was" in terminal.ok("policies", "apply", str(file))
    first = file.read_text()
    assert terminal.ok("policies", "show", "cli-p") == first
    file.write_text(first.replace("api.example.com", "pypi.org"))
    status, out, _ = terminal.run("policies", "diff", str(file))
    assert (status, "closes api.example.com:443" in out) == (1, True)
    out = terminal.ok(
        "policies",
        "apply",
        str(file),
        "--rollout",
        "10,100",
        "--soak",
        "10m",
        "--max-denials",
        "5",
        "--reason",
        "mirror",
    )
    number = out.rpartition("roll-out ")[2].strip()
    assert rows(terminal.ok("rollouts"))[number][1:3] == ["cli-p", "running"]
    assert "stopped: paused by a-admin" in terminal.ok("rollouts", "pause", number)
    assert "running" in terminal.ok("rollouts", "resume", number)
    assert "done" in terminal.ok("rollouts", "finish", number)
    assert terminal.ok("policies", "rollback", "cli-p", "--reason", "no").startswith("cli-p: ")
    assert terminal.ok("policies", "show", "cli-p") == first
    assert terminal.ok("policies", "remove", "cli-p") == "cli-p: removed\n"
    history = terminal.ok("policies", "history", "cli-p").splitlines()
    assert [[word for word in ("remove", "rollback", "apply") if f" {word} " in line] for line in history[1:]] == [
        ["remove"], ["rollback"], ["apply"], ["apply"],
    ]  # fmt: skip
    assert [entry["reason"] for entry in terminal.json("policies", "history", "cli-p")["history"]] == [
        "", "no", "mirror", "begin",
    ]  # fmt: skip


def test_policies_are_listed_with_and_without_the_word(terminal: Terminal) -> None:
    """Flags hold on either side of it."""
    put_policy(terminal.stage.database, CODER.replace("coder", "cli-l"))
    assert rows(terminal.ok("policies"))["cli-l"][2] == "enforce"
    assert "cli-l" in rows(terminal.ok("policies", "list"))
    assert json.loads(terminal.ok("policies", "-o", "json"))["policies"]
    assert json.loads(terminal.ok("policies", "-o", "json", "list"))["policies"]
    assert json.loads(terminal.ok("policies", "list", "-o", "json"))["policies"]


def test_a_bad_policy_is_told_line_by_line_and_changes_nothing(terminal: Terminal, tmp_path: Path) -> None:
    """All files, all problems."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(CODER.replace("coder", "cli-good"))
    bad.write_text(CODER.replace("[api.example.com]", '["*"]').replace("owner", "ower"))
    status, out, err = terminal.run("policies", "apply", str(good), str(bad))
    assert (status, out) == (1, "")
    assert err.count("bad.yaml:") == 2
    assert terminal.run("policies", "show", "cli-good")[0] == 1
    assert terminal.run("policies", "apply", str(tmp_path / "none.yaml"))[0] == 125
    assert terminal.run("policies", "apply", str(good), "--soak", "5m")[0] == 2
    assert terminal.run("policies", "apply", str(good), "--rollout", "10,x")[0] == 2
    assert terminal.run("policies", "apply", str(good))[0] == 0


def test_verdicts_the_oldest_first(terminal: Terminal) -> None:
    """As lines for people, and as JSON that `exeat policy` reads."""
    with terminal.stage.database.writing() as tx:
        store(tx, [line(f"v-{number}.test", 10 - number) for number in range(5)], "v-1")
    out = terminal.ok("verdicts", "--node", "v-1").splitlines()
    assert [next(word for word in one.split() if ".test" in word) for one in out] == [f"v-{at}.test" for at in range(5)]
    assert all("v-1/agents/coder-1" in one for one in out)
    found = [json.loads(one) for one in terminal.ok("verdicts", "--to", "v-3.test", "-o", "json").splitlines()]
    assert [(one["name"], one["node"], one["verdict"]) for one in found] == [("v-3.test", "v-1", "DROPPED")]
    status, out, err = terminal.run("verdicts", "--node", "v-1", "--limit", "2")
    assert (status, len(out.splitlines()), "only the last 2" in err) == (0, 2, True)
    assert terminal.run("verdicts", "--verdict", "MAYBE")[0] == 2
    assert terminal.run("verdicts", "--to", "a..b")[0] == 2


def test_verdicts_are_followed_as_they_come(stage: Stage) -> None:
    """In a process of its own, until it is stopped."""
    environment = {**os.environ, "EXEAT_PLANE": stage.url, "EXEAT_PLANE_TOKEN": stage.tokens["viewer"]}
    with stage.database.writing() as tx:
        store(tx, [line("past.test", 5)], "fo-1")
    command = [*EXEAT, "plane", "verdicts", "--follow", "--node", "fo-1", "--since", "5m", "-o", "json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["name"] == "past.test"
        with stage.database.writing() as tx:
            store(tx, [line("live.test")], "fo-1")
        assert json.loads(process.stdout.readline())["name"] == "live.test"
        process.terminate()


def test_denials_and_their_approval(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at without a change, refused without an answer, done with --yes."""
    put_policy(terminal.stage.database, CODER.replace("coder", "cli-a"))
    tell(terminal.stage.database, Told("pypi.org", policy="cli-a", count=4))
    assert rows(terminal.ok("denials", "--policy", "cli-a"))["pypi.org:443"][1:5] == [
        "/agents/coder-1", "cli-a", "name_not_allowed", "4",
    ]  # fmt: skip
    terminal.become("approver")
    ask = ["approve", "pypi.org", "--owner", "ml", "--reason", "builds", "--policy", "cli-a"]
    out = terminal.ok(*ask, "--dry-run")
    assert "+  - name: approved-pypi-org-443" in out
    assert "opens pypi.org:443 (tls)" in out
    status, _, err = terminal.run(*ask)
    assert (status, "--yes" in err) == (2, True)
    assert terminal.run("approve", "pypi.org", "--owner", "ml")[0] == 2
    assert "pypi" not in terminal.ok("policies", "show", "cli-a")
    monkeypatch.setattr("sys.stdin", _Somebody("no\n"))
    assert terminal.run(*ask)[0] == 1
    assert "pypi" not in terminal.ok("policies", "show", "cli-a")
    monkeypatch.setattr("sys.stdin", _Somebody("y\n"))
    status, out, _ = terminal.run(*ask)
    assert (status, "approved: cli-a is " in out) == (0, True)
    assert "pypi.org" in terminal.ok("policies", "show", "cli-a")
    status, _, err = terminal.run(*ask, "--yes")
    assert (status, "allows pypi.org already" in err) == (1, True)
    assert "never.test was denied" in terminal.run("approve", "never.test", "--owner", "o", "--reason", "r")[2]


class _Somebody:
    """Who answers at a terminal."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return self._answer


@pytest.fixture(name="node")
def a_node(stage: Stage) -> Iterator[list[plane_pb2.Command]]:
    """`cmd-1`, which does what it is told, but for the workload `stubborn`; and what it was told."""
    told: list[plane_pb2.Command] = []
    is_over = threading.Event()
    with stage.database.writing() as tx:
        if nodes.node(tx, "cmd-1") is None:
            nodes.add(tx, "cmd-1")

    def answer() -> None:
        while not is_over.wait(0.02):
            with stage.database.reading() as tx:
                waiting = commands.waiting(tx, "cmd-1", time.time_ns())
            for one in waiting:
                told.append(one)
                result = plane_pb2.CommandResult(id=one.id, cut=1, allowance="7f")
                what = getattr(one, one.WhichOneof("what") or "")
                result.workload.CopyFrom(plane_pb2.WorkloadState(name=what.workload, mode=one.set_mode.mode or 1))
                if what.workload == "stubborn":
                    result.refusal = "there is no such workload"
                with stage.database.writing() as tx:
                    commands.ended(tx, "cmd-1", result, time.time_ns())

    thread = threading.Thread(target=answer)
    thread.start()
    yield told
    is_over.set()
    thread.join()


def test_a_workload_on_a_node_is_cut_off_let_back_and_allowed_something(
    terminal: Terminal, node: list[plane_pb2.Command]
) -> None:
    """What reaches the node is what was typed, with the name of who typed it."""
    terminal.become("approver")
    assert terminal.ok("quarantine", "cmd-1//agents/w", "--reason", "it scans") == (
        "cmd-1//agents/w: quarantine; 1 open connection ended\n"
    )
    assert terminal.ok("quarantine", "cmd-1/w", "--lift").startswith("cmd-1/w: enforce")
    assert terminal.ok("mode", "cmd-1/w", "open", "--for", "5m").startswith("cmd-1/w: open")
    out = terminal.ok("allow", "cmd-1/w", "a.test:443", "--for", "1h", "--reason", "now")
    assert "sooner: exeat plane allow cmd-1/w --end 7f" in out
    assert "allowance 7f has ended" in terminal.ok("allow", "cmd-1/w", "--end", "7f")
    assert [one.by for one in node] == ["a-approver"] * 5
    assert (node[0].set_mode.workload, node[0].set_mode.reason) == ("/agents/w", "it scans")
    assert (node[2].set_mode.mode, node[2].set_mode.for_s) == (3, 300)
    assert (node[3].allow.destination, node[3].allow.for_s) == ("a.test:443", 3600)
    status, _, err = terminal.run("mode", "cmd-1/stubborn", "open")
    assert (status, "there is no such workload" in err) == (1, True)


def test_a_node_that_does_not_answer_is_told_as_such(terminal: Terminal) -> None:
    """It may still do it; a node that nobody knows does not."""
    with terminal.stage.database.writing() as tx:
        nodes.add(tx, "cmd-away")
    status, _, err = terminal.run("mode", "cmd-away/w", "open", "--wait", "0")
    assert (status, "has not answered yet" in err) == (1, True)
    assert terminal.run("mode", "cmd-none/w", "open")[0] == 1
    for words in (["mode", "cmd-1", "open"], ["mode", "/w", "open"], ["mode", "cmd-1/w", "off"]):
        assert terminal.run(*words)[0] == 2, words
    assert terminal.run("mode", "cmd-1/w", "policy", "--for", "5m")[0] == 2
    assert terminal.run("allow", "cmd-1/w", "a.test")[0] == 2
    assert terminal.run("allow", "cmd-1/w", "--end", "7f", "--reason", "x")[0] == 2


def test_the_report_as_text_and_as_a_page(terminal: Terminal, tmp_path: Path) -> None:
    """The page stands by itself."""
    tell(terminal.stage.database, Told("report.test", policy="cli-r", count=17))
    out = terminal.ok("report", "--since", "2d")
    assert "report.test:443" in out
    assert "denied" in out
    assert terminal.json("report")["denied"] >= 17
    page = tmp_path / "report.html"
    assert terminal.ok("report", "--html", str(page)) == ""
    assert "report.test" in page.read_text()
    assert terminal.ok("report", "--html", "-").startswith("<!doctype html>")
    assert terminal.run("report", "--html", str(tmp_path / "no" / "such"))[0] == 125
    assert terminal.run("report", "--since", "yesterday")[0] == 2


def test_tokens_are_made_listed_and_removed(terminal: Terminal) -> None:
    """What is printed is the token alone, to be put into a file."""
    token = terminal.ok("tokens", "add", "t-cli", "--role", "viewer", "--expires", "30d").strip()
    with terminal.stage.database.reading() as tx:
        assert people.person_of(tx, token, time.time_ns()) == people.Person("t-cli", people.Role.VIEWER, "token")
    assert rows(terminal.ok("tokens"))["t-cli"][1] == "viewer"
    assert token not in terminal.ok("tokens", "-o", "json")
    assert terminal.ok("tokens", "remove", "t-cli") == "removed: t-cli\n"
    assert terminal.run("tokens", "remove", "t-cli")[0] == 1
    assert terminal.run("tokens", "add", "x")[0] == 2
    assert terminal.run("tokens", "add", "--role", "viewer")[0] == 2


def test_the_first_token_needs_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the plane's machine, in its store."""
    settings = tmp_path / "plane.yaml"
    settings.write_text(
        "apiVersion: exeat.dev/v1\nkind: PlaneSettings\nspec:\n  agents: {certificate: /c, key: /k, ca: /a}\n"
        f"  store: sqlite:{tmp_path}/plane.db\n"
    )
    assert main(["plane", "tokens", "add", "root", "--role", "admin", "--config", str(settings)]) == 0
    token = capsys.readouterr().out.strip()
    database = open_database(f"sqlite:{tmp_path}/plane.db")
    with database.reading() as tx:
        person = people.person_of(tx, token, time.time_ns())
        assert person == people.Person("root", people.Role.ADMIN, "token")
        assert 89 < (people.tokens(tx)[0].expires_ns - time.time_ns()) / 86_400e9 < 90.1
    database.close()
    assert main(["plane", "tokens", "remove", "root", "--config", str(settings)]) == 0
    assert main(["plane", "tokens", "remove", "root", "--config", str(settings)]) == 1
    assert main(["plane", "tokens", "add", "x", "--role", "admin", "--config", str(tmp_path / "none")]) == 125
    assert plane_tokens.__doc__


def test_somebody_with_too_small_a_role_is_told_so(terminal: Terminal, tmp_path: Path) -> None:
    """1: the answer is no. The twin is an admin's."""
    file = tmp_path / "p.yaml"
    file.write_text(CODER.replace("coder", "cli-role"))
    terminal.become("viewer")
    status, _, err = terminal.run("policies", "apply", str(file))
    assert (status, "needs admin" in err) == (1, True)
    assert "nodes" in terminal.json("nodes")
    terminal.become("admin")
    assert terminal.run("policies", "apply", str(file))[0] == 0


def test_the_token_comes_from_a_file_or_the_environment(terminal: Terminal, tmp_path: Path) -> None:
    """The flag before the file's variable, that before the token's own."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(terminal.stage.tokens["viewer"] + "\n")
    bad.write_text("exeat_nonsense\n")
    patch = terminal._patch
    patch.setenv("EXEAT_PLANE_TOKEN", "exeat_nonsense")
    assert terminal.run("nodes")[0] == 1
    patch.setenv("EXEAT_PLANE_TOKEN_FILE", str(good))
    assert terminal.run("nodes")[0] == 0
    assert terminal.run("nodes", "--token-file", str(bad))[0] == 1
    patch.setenv("EXEAT_PLANE_TOKEN_FILE", str(bad))
    assert terminal.run("nodes", "--token-file", str(good))[0] == 0
    assert terminal.run("nodes", "--token-file", str(tmp_path / "none"))[0] == 125
    patch.delenv("EXEAT_PLANE_TOKEN_FILE")
    patch.delenv("EXEAT_PLANE_TOKEN")
    status, _, err = terminal.run("nodes")
    assert (status, "say who asks" in err) == (2, True)


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:9471", "ftp://x", "plane.example.com", "http://", "http://a:b@127.0.0.1"]
)
def test_an_address_that_makes_no_sense_or_gives_the_token_away_is_refused(terminal: Terminal, url: str) -> None:
    """Before anything is sent."""
    assert terminal.run("nodes", "--plane", url)[0] == 2


def test_a_plane_that_cannot_be_reached_is_told_as_such(terminal: Terminal) -> None:
    """4: nobody listens, somebody hangs up, or talks something else; redirections are not followed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    status, _, err = terminal.run("nodes", "--plane", f"http://127.0.0.1:{port}")
    assert (status, "cannot be reached" in err) == (4, True)
    for answer, expected in (
        (b"", 4),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 4),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 125),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nhi", 125),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 125),
        (b'HTTP/1.1 503 Not\r\nContent-Length: 16\r\n\r\n{"error":"away"}', 4),
    ):
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_answer_once, args=(server, answer))
            thread.start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            assert terminal.run("nodes", "--plane", url)[0] == expected, answer
            thread.join()


def _answer_once(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


def test_only_a_plane_whose_certificate_fits_is_asked(terminal: Terminal, tmp_path: Path) -> None:
    """By the authority that --ca names, and for the very host."""
    authority = Authority(tmp_path)
    certificate = authority.certificate("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    body = b'{"nodes": []}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            for _ in range(3):
                connection, _ = server.accept()
                with connection:
                    try:
                        with context.wrap_socket(connection, server_side=True) as secured:
                            heard.append(secured.recv(65536))
                            secured.sendall(answer)
                    except (ssl.SSLError, OSError):
                        heard.append(b"")

        thread = threading.Thread(target=serve)
        thread.start()
        ca = ["--ca", str(authority.ca_file)]
        assert terminal.run("nodes", "--plane", f"https://localhost:{port}", *ca)[0] == 0
        status, _, err = terminal.run("nodes", "--plane", f"https://localhost:{port}")
        assert (status, "cannot be trusted" in err) == (4, True)
        assert terminal.run("nodes", "--plane", f"https://127.0.0.1:{port}", *ca)[0] == 4
        thread.join()
    assert [b"Bearer" in one for one in heard] == [True, False, False]
