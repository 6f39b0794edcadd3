"""Every command that asks the agent, as a new user runs it: with an agent, without, and with wrong arguments."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.json_format import Parse

from exeat.cli.main import COMMANDS as COMMAND_NAMES
from exeat.v1 import agent_pb2 as pb
from unit.fake_agent import Running, fake_agent

EXEAT = (sys.executable, "-m", "exeat.cli.main")
LONG_AGO = ("--since", "2020-01-01T00:00:00Z")
# Each with the response that its JSON holds.
COMMANDS = {
    ("status",): pb.GetStatusResponse,
    ("workloads",): pb.ListWorkloadsResponse,
    ("workloads", "coder"): pb.ListWorkloadsResponse,
    ("grants", "coder"): pb.ListGrantsResponse,
    ("explain", "coder", "api.example.com"): pb.ExplainResponse,
    ("mode", "coder", "open", "--for", "5m", "--reason", "set-up"): pb.SetModeResponse,
    ("mode", "coder", "policy"): pb.SetModeResponse,
    ("allow", "coder", "pypi.org", "--for", "1h", "--reason", "TICKET-7"): pb.AllowResponse,
    ("quarantine", "coder", "--reason", "odd"): pb.SetModeResponse,
    ("top", "-n", "1"): pb.ListWorkloadsResponse,
    ("register", "new", "--pid", "1", "--label", "a=b=c", "--policy", "p", "--ttl", "1h"): pb.RegisterResponse,
    ("register", "other", "--cgroup", "/x"): pb.RegisterResponse,
    ("register", "third", "--interface", "tap0"): pb.RegisterResponse,
    ("attach", "tap1", "--policy", "p", "--label", "session=4", "--no-dhcp"): pb.RegisterResponse,
    ("unregister", "builder"): pb.UnregisterResponse,
    ("session", "end", "builder"): pb.SetSessionResponse,
    ("reload",): pb.ReloadResponse,
}
ALL = [
    *COMMANDS,
    ("verdicts",),
    ("verdicts", "--follow"),
    ("allow", "coder", "--end", "a1"),
    ("quarantine", "x", "--lift"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the agent is to listen."""
    return tmp_path / "agent.sock"


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    """An agent that listens there."""
    with fake_agent(path) as agent:
        yield agent


def exeat(path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end."""
    environment = {**os.environ, "EXEAT_SOCKET": str(path), **variables}
    return subprocess.run(
        [*EXEAT, *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def said(path: Path, *arguments: str) -> str:
    """What a command that succeeds shows."""
    done = exeat(path, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize("arguments", ALL, ids=" ".join)
def test_without_an_agent_every_command_says_how_to_start_it(path: Path, arguments: tuple[str, ...]) -> None:
    """One line, and a status of its own."""
    done = exeat(path, *arguments)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"exeat: the agent is not running (nobody listens on {path}): systemctl start exeat\n"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_with_an_agent_every_command_answers_people(running: Running, path: Path, arguments: tuple[str, ...]) -> None:
    """In lines without an escape, because nobody sits at a terminal."""
    text = said(path, *arguments)
    assert text.strip()
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("arguments", "response"), COMMANDS.items(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_json_can_be_read_back(running: Running, path: Path, arguments: tuple[str, ...], response: type) -> None:
    """By protobuf, with every field known."""
    text = said(path, *arguments, "-o", "json")
    assert Parse(text, response()).ByteSize()


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("nonsense",), ("status", "extra"), ("status", "-o", "yaml"), ("workloads", "a", "b"), ("grants",),
        ("explain", "coder"), ("mode", "coder"), ("mode", "coder", "loud"), ("mode", "coder", "open", "--for", "soon"),
        ("mode", "coder", "open", "--for", "0"), ("mode", "coder", "policy", "--for", "5m"),
        ("allow", "coder"), ("allow", "coder", "pypi.org"), ("allow", "coder", "pypi.org", "--for", "1h"),
        ("allow", "coder", "pypi.org", "--end", "a1"), ("quarantine",), ("top", "-n", "0"), ("top", "-n", "x"),
        ("register", "new"), ("register", "new", "--pid", "0"), ("register", "new", "--pid", "1", "--cgroup", "/x"),
        ("register", "new", "--pid", "1", "--label", "x"), ("register", "new", "--pid", "1", "--ttl", "-1"),
        ("register", "new", "--interface", "tap0", "--pid", "1"), ("attach",), ("attach", "tap0", "--ttl", "soon"),
        ("session",), ("session", "set", "coder"), ("session", "end"), ("session", "end", "coder", "--token-file", "f"),
        ("unregister",), ("verdicts", "--since", "yesterday"), ("verdicts", "--since", "2027-03-31"),
        ("verdicts", "--verdict", "MAYBE"), ("verdicts", "--to", "a b"), ("verdicts", "-o", "table"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments_are_told_before_anybody_is_asked(
    running: Running, path: Path, arguments: tuple[str, ...]
) -> None:
    """Usage, one line, status 2."""
    done = exeat(path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: exeat")
    assert "Traceback" not in done.stderr
    assert re.match(r"exeat[a-z ]*: .", done.stderr.splitlines()[-1])
    assert running.agent.peers == []


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("workloads", "nosuch"), 1, "no workload is called 'nosuch'"),
        (("workloads", "e"), 1, "fits several"),
        (("grants", "nosuch"), 1, "no workload"),
        (("allow", "coder", "a b", "--for", "1h", "--reason", "x"), 2, "is no destination"),
        (("allow", "coder", "--end", "zz"), 1, "is no allowance"),
        (("register", "coder-7", "--pid", "1"), 1, "is a workload already"),
        (("register", "new", "--pid", "1", "--policy-file", "/no/such/file"), 125, "cannot be read"),
        (("register", "new", "--pid", "1", "--session-file", "/no/such/file"), 125, "cannot be read as a token"),
        (("session", "set", "coder", "--token-file", "/no/such/file"), 125, "cannot be read as a token"),
        (("session", "set", "coder", "--token-file", "/dev/null"), 125, "is empty: put a signed token there"),
        (("session", "set", "coder", "--token-file", "/etc/hostname"), 1, "is signed by nobody"),
        (("session", "end", "nosuch"), 1, "no workload"),
        (("quarantine", "coder", "--lift"), 1, "no quarantine to lift: coder-7 is in mode enforce"),
        (("status", "--socket", "/etc/passwd"), 4, "systemctl start exeat"),
    ],
)
def test_a_refusal_is_a_line_and_a_status(
    running: Running, path: Path, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    """docs/exit-codes.md says which."""
    done = exeat(path, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("exeat: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_status_is_1_where_something_is_wrong(running: Running, path: Path) -> None:
    """A complaint and a rejected file are shown; so does reload."""
    assert "in force" in said(path, "status")
    assert json.loads(said(path, "status", "-o", "json"))["lost_events"] == "0"  # a name of the proto, and 0 is said
    running.agent.complaints = ["pins were removed: systemctl restart exeat"]
    done = exeat(path, "status")
    assert done.returncode == 1
    assert "! pins were removed" in done.stdout
    assert "rejected" in done.stdout
    assert "! broken.yaml:4: unknown field `egres`: write `egress`" in done.stdout
    assert exeat(path, "reload").returncode == 1


def test_explain_is_1_for_what_is_denied(running: Running, path: Path) -> None:
    """And 0 for what is allowed."""
    assert "allowed at 203.0.113.10" in said(path, "explain", "coder", "api.example.com")
    done = exeat(path, "explain", "coder", "evil.test")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("denied: no rule names this host [name_not_allowed; policy coding-agent]")


def test_an_allowance_can_be_ended_by_the_id_that_is_shown(running: Running, path: Path) -> None:
    """It stands among the rules with its end and reason meanwhile."""
    text = said(path, "allow", "coder", "pypi.org", "--for", "1h", "--reason", "TICKET-7")
    assert "it ends in 1h" in text
    found = re.search(r"exeat allow coder --end (\S+)", text)
    assert found
    assert "TICKET-7 (uid 0)" in said(path, "workloads", "coder")
    assert "has ended; 1 open connection" in said(path, "allow", "coder", "--end", found[1])
    assert "TICKET-7" not in said(path, "workloads", "coder")


def test_attach_shows_who_is_behind_the_interface(running: Running, path: Path) -> None:
    """By the interface's name, if it is given no other; and what the kernel has not seen yet is said."""
    words = ("--mac", "02:00:00:00:00:01", "--address", "198.51.100.2", "--address", "2001:db8::2")
    text = said(path, "attach", "tap0", *words)
    assert re.search(r"^workload +tap0$", text, re.MULTILINE)
    assert re.search(r"^interface +tap0 \(index 7\), judged by tcx$", text, re.MULTILINE)
    assert re.search(r"^guest +02:00:00:00:00:01, 198.51.100.2, 2001:db8::2$", text, re.MULTILINE)
    assert "cgroup" not in text
    text = said(path, "attach", "tap1", "--name", "coder-9")
    assert re.search(r"^workload +coder-9$", text, re.MULTILINE)
    assert re.search(r"^guest +no MAC address yet, no address yet$", text, re.MULTILINE)


def test_a_session_is_set_from_a_file_or_a_pipe_and_ended(running: Running, path: Path, tmp_path: Path) -> None:
    """Its token stands on no command line; what it says is shown, and cannot move the cursor."""
    token = tmp_path / "token"
    token.write_text("a.good.token\n")
    assert re.match(
        r"coder-7: session s-42, ends in (4m 59s|5m); 1 ",
        said(path, "session", "set", "coder-7", "--token-file", str(token)),
    )
    text = said(path, "workloads", "coder-7")
    assert re.search(r"^session +s-42 user=al\\x1bice, ends in (4m 5\ds|5m)$", text, re.MULTILINE)
    assert said(path, "session", "end", "coder").startswith("coder-7 has no session context any more; 1 ")
    assert "s-42" not in said(path, "workloads", "coder-7")
    done = subprocess.run(
        [*EXEAT, "session", "set", "coder-7", "--token-file", "-", "--socket", str(path)],
        input="a.good.token", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    said(path, "register", "new", "--pid", "1", "--session-file", str(token))
    assert running.agent.workloads["new"].who.session == "a.good.token"


def test_quarantine_and_its_end(running: Running, path: Path) -> None:
    """Twin of a mode: what holds is shown."""
    assert said(path, "quarantine", "coder", "--reason", "odd").startswith("coder-7: quarantine;")
    assert "quarantine (odd)" in said(path, "workloads", "coder")
    assert said(path, "quarantine", "coder", "--lift").startswith("coder-7: enforce;")
    assert "policies' own holds again in 5m" in said(path, "mode", "coder", "open", "--for", "5m")


def test_verdicts_are_filtered_and_cannot_move_the_cursor(running: Running, path: Path) -> None:
    """What was lost is said on standard error, beside them."""
    done = exeat(path, "verdicts", *LONG_AGO)
    assert done.stderr == "exeat: 3 verdicts were lost here: this reader is too slow\n"
    lines = done.stdout.splitlines()
    assert [re.search(r"(allowed|would be denied|denied):", line)[1] for line in lines] == [  # type: ignore[index]
        "allowed", "denied", "would be denied",
    ]  # fmt: skip
    assert "\\x1b[31mred.test" in lines[2]
    assert (
        len(exeat(path, "verdicts", *LONG_AGO, "--verdict", "dropped", "--verdict", "AUDIT").stdout.splitlines()) == 2
    )
    assert len(exeat(path, "verdicts", *LONG_AGO, "--to", ".example.com").stdout.splitlines()) == 1
    assert exeat(path, "verdicts", *LONG_AGO, "--workload", "builder").stdout == ""
    as_json = [json.loads(line) for line in exeat(path, "verdicts", *LONG_AGO, "-o", "json").stdout.splitlines()]
    assert [one["verdict"] for one in as_json] == ["FORWARDED", "DROPPED", "AUDIT"]
    assert as_json[2]["destination"] == {"address": "2001:db8::7", "port": 443}


def test_followed_verdicts_come_at_once_and_end_with_the_reader(running: Running, path: Path) -> None:
    """Ctrl-C is 130; a closed pipe ends it too; neither says anything."""
    command = [*EXEAT, "verdicts", "-f", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as interrupted:
        assert interrupted.stdout
        assert interrupted.stderr
        assert "evil.test" in interrupted.stdout.readline()
        interrupted.send_signal(signal.SIGINT)
        interrupted.stdout.read()
        assert (interrupted.wait(10), interrupted.stderr.read()) == (130, "")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as unheard:
        assert unheard.stdout
        assert unheard.stderr
        assert unheard.stdout.readline()
        unheard.stdout.close()
        assert (unheard.wait(10), unheard.stderr.read()) == (141, "")


def test_an_agent_that_ends_is_told_to_who_follows(path: Path) -> None:
    """Not as the end of the verdicts."""
    with fake_agent(path):
        command = [*EXEAT, "verdicts", "-f", "--socket", str(path)]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert reader.stdout
        assert reader.stdout.readline()
    out, errors = reader.communicate(timeout=10)
    assert (reader.returncode, errors.startswith("exeat: the agent is not running")) == (4, True), (out, errors)


def test_a_full_disk_is_told(running: Running, path: Path) -> None:
    """Half a table with status 0 would be a lie."""
    with open("/dev/full", "w") as full:
        command = [*EXEAT, "workloads", "--socket", str(path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert done.returncode == 125
    assert "No space left" in done.stderr


@pytest.mark.parametrize(
    ("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals(running: Running, path: Path, variables: dict[str, str], is_coloured: bool) -> None:
    """And for those who want it; what workloads call themselves is escaped there too."""
    text = on_terminal(path, "verdicts", *LONG_AGO, **variables)
    assert ("\x1b[31mdenied: evil.test" in text) is is_coloured
    assert "\\x1b[31mred.test" in text
    assert "\x1b[31mred.test" not in text


def test_top_redraws_on_a_terminal(running: Running, path: Path) -> None:
    """And writes one table after the other elsewhere."""
    text = on_terminal(path, "top", "-n", "2")
    assert text.count("\x1b[H\x1b[J") == 2
    assert said(path, "top", "-n", "2").count("WORKLOAD") == 2
    assert "\x1b" not in said(path, "top", "-n", "1")


def on_terminal(path: Path, *arguments: str, **variables: str) -> str:
    """What somebody at a terminal sees."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "EXEAT_SOCKET": str(path), "TERM": "xterm", **variables}
    environment = {key: value for key, value in environment.items() if key != "NO_COLOR" or key in variables}
    with subprocess.Popen([*EXEAT, *arguments], stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as command:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # how a terminal says that nobody is left
            assert command.wait(10) == 0
    os.close(ours)
    return seen.decode()


def test_help_names_every_command(path: Path) -> None:
    """Each with what it is for."""
    text = said(path, "--help")
    for name in COMMAND_NAMES:
        assert re.search(rf"^    {name}\s+\w", text, re.MULTILINE), name


def test_a_command_imports_only_what_it_needs(path: Path) -> None:
    """`exeat run` and `exeat doctor` do not wait for gRPC; without an agent nor does anything."""
    script = (
        "import sys\nfrom exeat.cli.main import main\n"
        "try:\n status = main(sys.argv[1:])\nexcept SystemExit as error:\n status = error.code\n"
        "print(status, *sorted({'grpc', 'google', 'exeat.run', 'exeat.kernel'} & set(sys.modules)), file=sys.stderr)"
    )

    def imported(*arguments: str) -> str:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stderr.splitlines()[-1]

    assert "grpc" not in imported("run", "--help")
    assert "grpc" not in imported("doctor", "--help")
    assert imported("status", "--socket", str(path)) == "4 google"
