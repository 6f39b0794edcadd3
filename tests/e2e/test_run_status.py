"""How `exeat run` ends, and what it refuses before anything starts. docs/exit-codes.md is the table of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.run_exeat import PYTHON, Stage, denials, open_stage, summary

CALL = "curl -sS -m 5 --cacert {ca} https://{name}/"
RULE_HEAD = "apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {name: broken}\nspec:\n"
RULE_HEAD += "  owner: tests@example.com\n  reason: tests\n  egress:\n"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One stage for the whole file."""
    with open_stage() as it:
        yield it


def call(stage: Stage, name: str) -> str:
    """A shell command that calls one host."""
    return CALL.format(ca=stage.ca_file, name=name)


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 42", 42),
        ("exit 3", 3),
        ("kill -TERM $$", 143),
    ],
)
def test_the_status_of_the_command_is_ours(script: str, status: int, stage: Stage) -> None:
    """Its own, or 128+N. Other numbers: test_launch.py, where nothing is compiled; 0 below, 130 in test_run_kill.py."""
    ran = stage.run("sh", "-c", script)
    assert ran.returncode == status, ran.stderr
    assert summary(ran.stderr).startswith("exeat: 0 allowed, 0 denied")


def test_a_command_that_cannot_be_executed_gives_126_and_one_that_is_missing_127(stage: Stage) -> None:
    """As env(1) does, each with a sentence and no summary of a run that was none."""
    plain = stage.file("plain", "no program")
    not_executable, missing = stage.run(str(plain)), stage.run("no-such-command")
    assert (not_executable.returncode, missing.returncode) == (126, 127)
    assert not_executable.stderr == f"exeat: cannot execute '{plain}': Permission denied\n"
    assert missing.stderr == "exeat: cannot find 'no-such-command': no directory in PATH has it\n"


@pytest.mark.parametrize(("options", "status"), [(("--fail-on-deny",), 3), ((), 0)])
def test_fail_on_deny_turns_success_into_3(options: tuple[str, ...], status: int, stage: Stage) -> None:
    """If something was denied. The tests of the modes below show the same of what would have been."""
    ran = stage.run("sh", "-c", call(stage, "v4.evil.test") + "; true", options=("--mode", "enforce", *options))
    assert ran.returncode == status, ran.stderr
    assert ", 1 denied" in summary(ran.stderr)


def test_monitor_lets_pass_what_it_would_deny_and_says_so(stage: Stage) -> None:
    """The server answers; the line and the summary say what enforce would have done, and so does --fail-on-deny."""
    stage.reset()
    script = call(stage, "v4.evil.test") + "; " + call(stage, "far6.shop.test")
    ran = stage.run("sh", "-c", script, options=("--mode", "monitor", "--fail-on-deny"))
    assert ran.returncode == 3
    assert ran.stdout == "I am v4.evil.test\nI am far6.shop.test\n"
    assert [line.split(":")[1] for line in denials(ran.stderr)] == [" would be denied"] * len(denials(ran.stderr))
    assert {"name_not_allowed", "address_not_allowed"} <= {
        line.split("[")[-1].split(";")[0] for line in denials(ran.stderr)
    }
    assert ", 0 denied" in summary(ran.stderr)
    assert "would be denied" in summary(ran.stderr)


def test_open_mode_lets_everything_pass_without_a_word_of_denial(stage: Stage) -> None:
    """It is the set-up phase: recorded, not reported, and nothing to fail on."""
    script = call(stage, "v6.evil.test") + "; " + call(stage, "v4.evil.test")
    ran = stage.run("sh", "-c", script, options=("--mode", "open", "--fail-on-deny"))
    assert ran.stdout == "I am v6.evil.test\nI am v4.evil.test\n"
    assert ran.returncode == 0
    assert denials(ran.stderr) == []


def test_quarantine_denies_even_what_a_rule_allows(stage: Stage) -> None:
    """And its twin without the flag is answered, with nothing to fail on."""
    stage.reset()
    held = stage.run("sh", "-c", call(stage, "v4.shop.test"), options=("--mode", "quarantine"))
    assert held.stdout == ""
    assert "[quarantined; policy shop-only]" in held.stderr
    assert stage.shop.count().is_untouched
    twin = stage.run("sh", "-c", call(stage, "v4.shop.test"), options=("--mode", "enforce", "--fail-on-deny"))
    assert (twin.stdout, twin.returncode) == ("I am v4.shop.test\n", 0)


def test_quiet_shows_nothing_of_exeats_own_and_a_command_that_fails_keeps_its_status(stage: Stage) -> None:
    """Neither denials nor the summary; what the command says stays. --fail-on-deny is for the success that was none."""
    script = call(stage, "v4.evil.test") + "; exit 9"
    ran = stage.run("sh", "-c", script, options=("--quiet", "--fail-on-deny"))
    assert "exeat:" not in ran.stderr
    assert ran.stderr.startswith("curl: (35)")
    assert ran.returncode == 9


def test_allow_cidr_opens_a_network_beside_the_policy_or_without_one(stage: Stage) -> None:
    """The only rule there is without --policy; the port it does not name stays closed."""
    plain = (
        f'{PYTHON} -c \'import socket; s = socket.create_connection(("{{}}", {{}})); s.send(b"x"); print(s.recv(99))\''
    )
    script = (
        f"{plain.format(stage.far.address4, 7)}; {plain.format(stage.shop.address4, 7)}; {call(stage, 'v4.shop.test')}"
    )
    flags = ("--allow-cidr", f"{stage.far.address4}/32:7/tcp")
    alone, beside = (stage.run("sh", "-c", script, options=flags, policy=policy) for policy in (None, ""))
    assert alone.stdout.splitlines() == [r"b'I am far\nx'"]
    assert "policy command-line" in denials(alone.stderr)[0]
    assert beside.stdout.splitlines() == [r"b'I am far\nx'", r"b'I am shop\nx'", "I am v4.shop.test"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--no-such-flag",), "unrecognized arguments: --no-such-flag"),
        (("--mode", "strict"), "invalid choice: 'strict'"),
        (("--user", "no-such-user"), "there is no user 'no-such-user'"),
        (("--allow-cidr", "203.0.113.1/24:443"), "203.0.113.0/24"),
        (("--allow-cidr", "shop.test:443"), "shop.test"),
        (("--allow-cidr", "203.0.113.0/24:70000"), "70000"),
        (("--verdicts", "/no/such/directory/file"), "cannot write verdicts to /no/such/directory/file"),
        (("--policy", "/no/such/policy.yaml"), "/no/such/policy.yaml: cannot be read"),
    ],
)
def test_wrong_usage_gives_125_and_a_sentence_and_starts_nothing(
    options: tuple[str, ...], sentence: str, stage: Stage
) -> None:
    """Before the compiler has even begun: it takes no second."""
    mark = stage.directory / "started"
    ran = stage.run("touch", str(mark), options=options)
    assert ran.returncode == 125, ran
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not mark.exists()


def test_no_command_gives_125(stage: Stage) -> None:
    """With and without the two dashes."""
    ran = stage.run()
    assert (ran.returncode, ran.stderr) == (125, "exeat: there is no command to run; put it after --\n")


@pytest.mark.parametrize(
    ("rules", "line", "sentence"),
    [
        ("  - {name: a, hosts: [shop.test], protocol: icmp}\n", 8, "icmp carries no names"),
        ("  - {name: a, hosts: [shop.test], protocol: tcp}\n", 8, "has no `ports`"),
        ("  - {name: a, hosts: [shop.test], protocol: tcp, ports: [853]}\n", 8, "853"),
        ("  - name: a\n    cidrs: [10.0.0.1/8]\n    ports: [1]\n    protocol: tcp\n", 9, "10.0.0.0/8"),
        ("  - name: a\n    host: [shop.test]\n", 9, "host"),
    ],
)
def test_a_bad_policy_is_refused_with_file_and_line(rules: str, line: int, sentence: str, stage: Stage) -> None:
    """Each problem with what to write instead; nothing was started."""
    policy, mark = stage.file("broken.yaml", RULE_HEAD + rules), stage.directory / "started"
    ran = stage.run("touch", str(mark), policy=policy)
    assert ran.returncode == 125
    assert any(told.startswith(f"exeat: {policy}:{line}: ") and sentence in told for told in ran.stderr.splitlines()), (
        ran
    )
    assert not mark.exists()


def test_a_policy_that_is_no_text_is_refused(stage: Stage) -> None:
    """A binary, a directory, an empty file."""
    empty = stage.file("empty.yaml", "")
    for policy in ("/bin/sh", str(stage.directory), str(empty)):
        ran = stage.run("true", policy=Path(policy))
        assert ran.returncode == 125, ran
        assert "Traceback" not in ran.stderr
        assert ran.stderr.startswith(f"exeat: {policy}")
