"""What `exeat run` tells, to people and to machines; and that it stays out of the command's streams."""

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bed import start_in
from e2e.run_exeat import PYTHON, START_S, Stage, denials, open_stage, summary, verdicts
from exeat.model.verdicts import Reason, Verdict

KEYS = {
    "time", "verdict", "reason", "hook", "workload", "policy", "rule", "process", "protocol", "destination", "source",
    "name", "bytes", "detail", "judged_us", "count", "evidence", "who",
}  # fmt: skip


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One stage for the whole file."""
    with open_stage() as it:
        yield it


def call(stage: Stage, name: str) -> str:
    """A shell command that calls one host."""
    return f"curl -s -m 5 --cacert {stage.ca_file} https://{name}/"


def test_ten_same_denials_are_one_line_and_the_summary_counts_ten(stage: Stage) -> None:
    """And another name at the same address is a line of its own."""
    script = f"for i in 1 2 3 4 5 6 7 8 9 10; do {call(stage, 'v4.evil.test')}; done; "
    script += f"curl -s --connect-to ::{stage.evil.address4}: https://other.test/; {call(stage, 'v4.shop.test')}"
    ran = stage.run("sh", "-c", script)
    first, second = denials(ran.stderr)
    where = f"(tcp {stage.evil.address4}:443)"
    story = "no rule allows this name, or not at this address and port [name_not_allowed; policy shop-only]"
    assert re.fullmatch(
        re.escape(f"exeat: denied: v4.evil.test {where} by curl[") + r"\d+\]: " + re.escape(story), first
    )
    assert second.startswith(f"exeat: denied: other.test {where} by curl[")
    assert re.fullmatch(r"exeat: 1 allowed, 11 denied \(2 different\), \d+ bytes out, \d+ in", summary(ran.stderr))
    assert ran.stderr.splitlines()[-1] == summary(ran.stderr)


def test_a_denial_is_told_while_the_command_runs(stage: Stage) -> None:
    """Not at the end: a person watches."""
    process = stage.start("sh", "-c", call(stage, "far4.shop.test") + "; sleep 30", stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert select.select([process.stderr], [], [], START_S)[0]
        assert "address_not_allowed" in process.stderr.readline()
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(START_S)


def test_verdicts_are_lines_of_json_with_every_field_and_are_appended(stage: Stage) -> None:
    """Allowed, denied by name, denied by address, behind what stood in the file."""
    path = stage.file("verdicts.json", '{"kept": 1}\n')
    script = "; ".join(call(stage, name) for name in ("v4.shop.test", "v6.evil.test", "far4.shop.test"))
    began = datetime.now(UTC)
    ran = stage.run("sh", "-c", f"id -u; id -g; {script}", options=("--verdicts", str(path)))
    assert "exeat: 1 allowed, 2 denied" in ran.stderr
    assert ran.stdout == "0\n0\nI am v4.shop.test\n"
    kept, *lines = verdicts(path)
    assert kept == {"kept": 1}
    assert len(lines) == 3
    for line in lines:
        assert line.keys() == KEYS
        assert began <= datetime.fromisoformat(line["time"][:26] + "+00:00") <= datetime.now(UTC)
        assert line["verdict"] in Verdict.__members__
        assert line["reason"].upper() in Reason.__members__
        assert re.fullmatch(r"/exeat\.slice/run-\d+-[0-9a-f]{12}", line["workload"])
        assert line["policy"] == "shop-only"
        assert line["process"].keys() == {"pid", "comm", "uid"}
        assert (line["process"]["comm"], line["process"]["uid"]) == ("curl", 0)
        assert line["process"]["pid"] > 1
        assert line["protocol"] == "tcp"
        assert 0 < line["judged_us"] < 100_000
        assert line["detail"] is None
    assert [(line["verdict"], line["reason"], line["hook"], line["rule"], line["name"]) for line in lines] == [
        ("FORWARDED", "name_allowed", "hello", "shop", "v4.shop.test"),
        ("DROPPED", "name_not_allowed", "hello", None, "v6.evil.test"),
        ("DROPPED", "address_not_allowed", "connect", None, None),
    ]
    hosts = (stage.shop.address4, stage.evil.address6, stage.far.address4)
    assert [line["destination"] for line in lines] == [{"address": address, "port": 443} for address in hosts]
    assert all(line["bytes"] > 200 for line in lines[:2])


def test_a_verdicts_file_that_takes_no_more_is_an_error_at_the_end(stage: Stage) -> None:
    """The command is not disturbed, and enforcement goes on; but what was lost is said."""
    stage.reset()
    script = f"{call(stage, 'v4.shop.test')}; {call(stage, 'v4.evil.test')}"
    ran = stage.run("sh", "-c", script, options=("--verdicts", "/dev/full"))
    assert ran.returncode == 125
    assert ran.stdout == "I am v4.shop.test\n"
    assert "2 verdicts not written: No space left on device" in summary(ran.stderr)
    assert ran.stderr.splitlines()[-1] == "exeat: 2 verdicts were not written to /dev/full: No space left on device"
    assert stage.evil.count().bytes == 0


def test_a_reader_of_our_lines_who_leaves_does_not_disturb_the_command(stage: Stage) -> None:
    """`exeat run ... 2>&1 | head -1`: its status is the command's."""
    reader, writer = os.pipe()
    script = f"{call(stage, 'v4.evil.test')}; {call(stage, 'v4.shop.test')} > {stage.directory}/got; exit 7"
    process = stage.start("sh", "-c", script, stderr=writer)
    os.close(writer)
    os.close(reader)
    assert process.wait(START_S) == 7
    assert (stage.directory / "got").read_text() == "I am v4.shop.test\n"


def test_standard_streams_are_the_commands_own(stage: Stage) -> None:
    """Standard input arrives, standard output carries nothing of ours, and both may be megabytes."""
    size = 8 << 20
    script = (
        "import sys; data = sys.stdin.read(); sys.stdout.write(data.upper()); sys.stderr.write(str(len(data)) + '\\n')"
    )
    ran = stage.run(PYTHON, "-c", script, stdin="ab" * (size // 2))
    assert ran.stdout == "AB" * (size // 2)
    assert ran.stderr.splitlines()[0] == str(size)
    assert len(ran.stderr.splitlines()) == 2


def test_two_runs_at_once_do_not_hear_of_each_other(stage: Stage) -> None:
    """Each has its own policy, lines and counts, and each writes whole lines into the one file they share."""
    path, pipes = stage.directory / "both.json", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    scripts = {"v4.evil.test": "v4.shop.test", "v6.evil.test": "v6.shop.test"}
    runs = []
    for bad, good in scripts.items():
        script = f"for i in 1 2 3 4 5; do {call(stage, bad)}; {call(stage, good)}; sleep 0.1; done"
        runs.append(stage.start("sh", "-c", script, options=("--verdicts", str(path)), **pipes))
    for process, (bad, good) in zip(runs, scripts.items(), strict=True):
        stdout, stderr = process.communicate(timeout=START_S)
        assert stdout == f"I am {good}\n" * 5
        assert [bad in line for line in denials(stderr)] == [True]
        assert summary(stderr).startswith("exeat: 5 allowed, 5 denied (1 different)")
    assert len(verdicts(path)) == 20
    assert len({line["workload"] for line in verdicts(path)}) == 2


def test_a_run_inside_a_terminal_gives_the_command_the_terminal(stage: Stage) -> None:
    """A command that asks isatty() is not told otherwise, and its keys arrive."""
    ours, theirs = pty.openpty()
    script = "test -t 0 && test -t 1 && test -t 2 && read word && echo got $word"
    process = start_in(stage.bed, stage.line("sh", "-c", script), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"hello\n")
    said = b""
    deadline = time.monotonic() + START_S
    while b" bytes out" not in said and time.monotonic() < deadline:
        if select.select([ours], [], [], 1)[0]:
            said += os.read(ours, 4096)
    assert b"got hello\r\n" in said
    assert process.wait(START_S) == 0
    os.close(ours)
