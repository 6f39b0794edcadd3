"""`exeat policy`: each tool as its user calls it, and the judge that tests and replays ask."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from bed import Bed, Dns, Host, Tcp, Tls, missing_capability, run_in
from exeat.cli.policy_trial import trial
from exeat.core.cases import Attempt, parse_target
from exeat.kernel.court import Court, open_court
from exeat.kernel.instance import Instance, instances
from exeat.model.policy import Mode, Policy, Protocol
from exeat.model.verdicts import Reason
from unit.naive_judge import may, resolving_rules
from unit.rule_words import NOON, NOON_NS, rule
from unit.test_compile_properties import GRANTED_ATTEMPTS, GrantedAttempts

EXEAT = (sys.executable, "-m", "exeat.cli.main")
START_S = 60.0
PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP, 1: Protocol.ICMP}
GOOD = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {name: good}
spec:
  owner: a@example.com
  reason: tests
  subject: {cgroups: [/a]}
  egress:
  - name: shop
    hosts: ["*.shop.test"]
    expires: "2099-01-01T00:00:00Z"
  - {name: db, cidrs: [10.0.0.0/8], ports: [5432], protocol: tcp}
"""
CASES = """\
apiVersion: exeat.dev/v1
kind: PolicyTest
policy: good.yaml
cases:
- {expect: "a.shop.test:443 allow", rule: shop, reason: name_allowed}
- {expect: "a.shop.test:443 deny", at: "2099-01-01T00:00:00Z", reason: rule_expired}
- {expect: "a.shop.test:443 allow", at: "2098-12-31T23:59:59.999999Z"}
- {expect: "a.shop.test:443/tcp deny", reason: not_tls}
- {expect: "shop.test deny", reason: name_not_allowed}
- {expect: "a.shop.test allow", address: 10.1.2.4}
- {expect: "a.shop.test:5432/tcp allow", address: 10.1.2.4, rule: db}
- {expect: "a.shop.test deny", address: 192.168.0.1, reason: address_withheld}
- {expect: "a.shop.test deny", address: 127.0.0.1, reason: address_withheld}
- {expect: "10.1.2.3:5432/tcp allow", rule: db}
- {expect: "10.1.2.3:5432/udp deny", reason: port_not_allowed}
- {expect: "203.0.113.7:443/tcp deny", reason: not_resolved}
- {expect: "203.0.113.7:53/udp deny", reason: dns_elsewhere}
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the judge in the kernel is loaded by root only")


def exeat(*arguments: str, stdin: str = "", **how: object) -> subprocess.CompletedProcess[str]:
    """One call."""
    line = [*EXEAT, "policy", *arguments]
    return subprocess.run(line, input=stdin, capture_output=True, text=True, check=False, timeout=START_S, **how)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a policy and its cases."""
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "cases.yaml").write_text(CASES)
    return tmp_path


def file(place: Path, name: str, text: str) -> str:
    """Another file."""
    (place / name).write_text(text)
    return str(place / name)


def test_check_is_silent_about_a_good_policy_and_names_the_line_of_a_bad_one(place: Path) -> None:
    """From a file and from standard input; a warning fails only where it is asked to."""
    good = exeat("check", str(place / "good.yaml"), "--strict")
    assert (good.returncode, good.stdout) == (0, ""), good
    bad = exeat("check", "-", stdin=GOOD.replace("hosts:", "host:"))
    assert bad.returncode == 1
    assert bad.stdout.startswith("standard input:10: `host` is no field of an egress rule; did you mean `hosts`?")
    doubtful = GOOD.replace("  owner: a@example.com\n", "")
    assert exeat("check", "-", stdin=doubtful).returncode == 0
    strict = exeat("check", "-", "--strict", stdin=doubtful)
    assert strict.returncode == 1
    assert strict.stdout == "standard input:4: warning: there is no `owner`: write who answers for this policy\n"


def test_check_finds_one_name_for_two_policies(place: Path) -> None:
    """And as JSON."""
    twin = file(place, "twin.yaml", GOOD)
    found = exeat("check", str(place / "good.yaml"), twin, "-o", "json")
    assert found.returncode == 1
    first, second = json.loads(found.stdout)
    assert (first["policy"], first["errors"], first["warnings"]) == ("good", [], [])
    assert second["errors"][0].startswith(f"{twin}:3: the policy in {place / 'good.yaml'} is named `good` too")


def test_what_show_writes_as_json_is_the_policy(place: Path) -> None:
    """No difference between the two; the table shows its rules."""
    shown = exeat("show", str(place / "good.yaml"), "-o", "json")
    same = exeat("diff", str(place / "good.yaml"), "-", stdin=shown.stdout)
    assert (same.returncode, same.stdout) == (0, "a workload feels no difference\n")
    table = exeat("show", str(place / "good.yaml")).stdout.splitlines()
    assert [line.split() for line in table if line.startswith(("owner", "shop"))] == [
        ["owner", "a@example.com"],
        ["shop", "tls", "*.shop.test", "443", "2099-01-01T00:00:00Z"],
    ]


def test_diff_says_what_opens_and_fails(place: Path) -> None:
    """In words and as JSON; no colour where nobody looks."""
    new = file(place, "new.yaml", GOOD.replace("10.0.0.0/8", "10.0.0.0/7").replace("*.shop", "a.shop"))
    told = exeat("diff", str(place / "good.yaml"), new)
    assert told.returncode == 1
    assert told.stdout.splitlines() == [
        "opens 11.0.0.0/8:5432/tcp by rule db",
        "closes *.shop.test:443 (tls) by rule shop, except a.shop.test, which stays open",
        "closes 10.0.0.0/8:5432/tcp by rule db",
    ]
    assert [
        change["what"] for change in json.loads(exeat("diff", str(place / "good.yaml"), new, "-o", "json").stdout)
    ] == [
        "opens",
        "closes",
        "closes",
    ]


@pytest.mark.parametrize(
    "arguments",
    [(), ("chck",), ("check",), ("show", "a", "b"), ("diff", "a"), ("diff", "-", "-"), ("test", "-", "--cases", "-")]
    + [("propose", "-", "--name", "A b"), ("replay", "a"), ("replay", "a", "b", "--at", "noon"), ("test", "a", "--x")],
)
def test_wrong_usage_ends_with_two(arguments: tuple[str, ...]) -> None:
    """And says how it is used."""
    wrong = exeat(*arguments)
    assert (wrong.returncode, wrong.stdout) == (2, ""), wrong
    assert wrong.stderr.startswith("usage: exeat policy")


@pytest.mark.parametrize("arguments", [("show",), ("diff", "-"), ("test",), ("propose",), ("replay", "-")])
def test_a_file_that_is_not_there_is_said(arguments: tuple[str, ...], place: Path) -> None:
    """With its name."""
    missing = str(place / "nowhere.yaml")
    failed = exeat(*arguments, missing, stdin=GOOD)
    assert failed.returncode == 125
    assert failed.stderr == f"exeat: {missing}: cannot be read: No such file or directory\n"


def test_only_root_may_ask_the_judge() -> None:
    """Who is not is told how to."""
    if os.geteuid() != 0:
        pytest.skip("who is not root cannot become nobody")
    with tempfile.TemporaryDirectory(prefix="exeat-policy-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        policy = file(place, "good.yaml", GOOD)
        line = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", *EXEAT[1:], "policy", "test", policy]
        refused = subprocess.run(
            [*line, "--cases", "-"],
            input=CASES,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert refused.returncode == 125, refused
    assert refused.stderr.endswith("which only root may load: sudo exeat policy test ...\n")


@as_root
def test_cases_are_judged_by_the_kernel(place: Path) -> None:
    """All of them as expected: by name, by address, at another time, with their reasons."""
    judged = exeat("test", str(place / "cases.yaml"))
    assert (judged.returncode, judged.stdout) == (0, ""), judged
    assert "13 cases, 0 failed" in judged.stderr


@as_root
def test_a_failing_case_says_what_was_expected_what_came_and_why(place: Path) -> None:
    """With its line; the others are not told, but in JSON."""
    wrong = CASES.replace("10.1.2.3:5432/tcp allow", "10.1.2.3:5432/tcp deny").replace("name_allowed", "granted")
    judged = exeat("test", str(place / "good.yaml"), "--cases", "-", stdin=wrong)
    assert judged.returncode == 1
    first, second = judged.stdout.splitlines()
    assert first.startswith("standard input:5: a.shop.test:443/tls: expected the reason granted, got name_allowed [")
    assert second.startswith(
        "standard input:14: 10.1.2.3:5432/tcp: expected deny, got allow [network_allowed, rule db:"
    )
    as_json = exeat("test", str(place / "good.yaml"), "--cases", "-", "-o", "json", stdin=wrong)
    assert [bool(case["failed"]) for case in json.loads(as_json.stdout)].count(True) == 2


@as_root
def test_a_quarantine_denies_every_case_and_a_monitor_is_tried_as_if_it_enforced(place: Path) -> None:
    """The latter says that what it calls deny passes."""
    cases = CASES.partition("- ")[0] + '- {expect: "b.shop.test allow"}\n- {expect: "c.test deny"}\n'
    for mode, failed, told in (("monitor", 0, "the policy's mode is monitor"), ("quarantine", 1, "")):
        policy = file(place, "mode.yaml", GOOD.replace("  egress:", f"  mode: {mode}\n  egress:"))
        judged = exeat("test", policy, "--cases", "-", stdin=cases)
        assert (judged.returncode, told in judged.stderr) == (failed, True), judged


@pytest.fixture(scope="module")
def court() -> Iterator[Court]:
    """One for the module."""
    if os.geteuid() != 0:
        pytest.skip("the judge in the kernel is loaded by root only")
    with open_court() as court:
        yield court


def mine() -> list[str]:
    """Courts of this process that are still pinned."""
    return [name for name in instances() if name.startswith(f"court-{os.getpid()}-")]


@as_root
def test_a_court_is_open_in_a_moment_and_leaves_nothing() -> None:
    """Nothing is pinned even while it sits, so that nothing can be left; nor where its making fails."""
    began = time.monotonic()
    with open_court():
        took = time.monotonic() - began
        assert mine() == []
    print(f"the court was open after {took:.2f} s")
    assert took < 15  # it takes 0.7 s on an idle machine


@as_root
def test_what_a_killed_court_left_is_swept_by_the_next() -> None:
    """Its process is gone; the pins of a living one stay."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    living = Instance(f"court-{os.getppid()}-test")
    dead = Instance(f"court-{gone.pid}-0")
    try:
        for instance in (living, dead):
            (instance.directory / "maps").mkdir(parents=True)
        with open_court():
            assert not dead.directory.exists()
            assert living.directory.exists()
    finally:
        living.remove()
        dead.remove()


@as_root
def test_a_court_that_cannot_be_made_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that does not compile stands for a kernel that refuses."""
    from exeat.errors import KernelError
    from exeat.kernel import court as module

    monkeypatch.setattr(module, "joined_source", lambda main: "int on_question(")
    with pytest.raises(KernelError, match="do not compile"), open_court():
        pass
    assert mine() == []


@given(GRANTED_ATTEMPTS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_trial_says_what_the_policy_says_at_any_moment(court: Court, attempts: GrantedAttempts) -> None:
    """Resolved or not, with a hello or without, against the judge that loops over rules."""
    (policy, questions), granted = attempts
    with trial(court, policy, NOON) as tried:
        for protocol, address, port, name, has_ech, _ in questions:
            plain = Attempt(PROTOCOLS[protocol], 0 if protocol == 1 else port, None, address)
            expected = may(policy, protocol, address, port, None, False, NOON_NS)
            assert tried.attempt(plain).is_allowed == expected.is_allowed, plain
            if protocol != 6 or name is None:
                continue
            hello = Attempt(Protocol.TLS, port, name, address, has_ech, is_resolved=False)
            expected = may(policy, 6, address, port, name, has_ech, NOON_NS)
            assert tried.attempt(hello).is_allowed == expected.is_allowed, hello
        for name, addresses in granted.items():
            in_force = {one.expires is None or one.expires > NOON for one in policy.rules} != {False}
            for address in addresses:
                attempt = Attempt(Protocol.TLS, 443, name, address)
                expected = may(policy, 6, address, 443, name, False, NOON_NS, {name: [address]})
                ruling = tried.attempt(attempt)
                may_resolve = bool(resolving_rules(policy, name)) and in_force
                assert not ruling.is_allowed or (expected.is_allowed and may_resolve), attempt
                if ruling.reason not in (Reason.ADDRESS_WITHHELD, Reason.RULE_EXPIRED, Reason.POLICY_EXPIRED):
                    assert ruling.is_allowed == (expected.is_allowed and may_resolve), (attempt, ruling)


def test_two_hearings_at_once_do_not_know_each_other(court: Court) -> None:
    """Their tables are in the same maps."""
    now = datetime.now(UTC)
    shop = Policy("shop", (rule("", hosts="a.test"),))
    quarantined = Policy("quarantined", shop.rules, mode=Mode.QUARANTINE)
    with (
        trial(court, shop, now) as one,
        trial(court, Policy("other"), now) as two,
        trial(court, quarantined, now) as no,
    ):
        attempt = parse_target("a.test")
        reasons = [tried.attempt(attempt).reason for tried in (one, two, no)]
        assert reasons == [Reason.NAME_ALLOWED, Reason.NAME_NOT_ALLOWED, Reason.QUARANTINED]
        assert [one.attempt(parse_target("localhost:80/tcp")).reason for _ in range(2)] == [Reason.NOT_RESOLVED] * 2


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bed, Host, Path]]:
    """A bed, and the verdicts of a run in it: a shop over TLS, another host over TCP, a name that nobody allowed."""
    if missing := missing_capability():
        pytest.skip(missing)
    place = tmp_path_factory.mktemp("recorded")
    with Bed() as bed:
        shop = bed.add("shop.test", Tls(names=("a.shop.test",)))
        other = bed.add("other.test", Tcp(7))
        zone = {"a.shop.test": shop.addresses, "c.test": [other.address4]}
        resolver = bed.add("resolver.test", Dns(zone))
        (place / "policy.yaml").write_text(GOOD.replace("10.0.0.0/8", other.address4 + "/32").replace("5432", "7"))
        (place / "resolver").write_text(resolver.address4)
        run(bed, place, place / "policy.yaml", "--verdicts", str(place / "v.jsonl"))
        yield bed, other, place


def run(bed: Bed, place: Path, policy: Path, *options: str) -> str:
    """The same commands under a policy; what was denied."""
    script = "curl -sS https://a.shop.test/ ; getent hosts c.test ; echo hi | /usr/bin/python3 -c " + repr(
        "import socket, sys; socket.create_connection((sys.argv[1], 7)).sendall(b'hi')"
    )
    upstream = f"--dns-upstream={(place / 'resolver').read_text()}"
    line = [*EXEAT, "run", upstream, "--policy", str(policy), *options, "--", "sh", "-c", f'{script} "$0"']
    done = run_in(
        bed,
        [*line, (place / "policy.yaml").read_text().partition("cidrs: [")[2].partition("/32")[0]],
        env={"CURL_CA_BUNDLE": str(bed.authority.ca_file)},
        timeout=START_S,
    )
    return done.stderr


def test_a_replay_foretells_what_a_policy_denies(recorded: tuple[Bed, Host, Path]) -> None:
    """What it says of the candidate is what happens when the same commands run under it."""
    bed, other, place = recorded
    verdicts, old = str(place / "v.jsonl"), place / "policy.yaml"
    same = exeat("replay", str(old), verdicts)
    assert same.returncode == 0, same
    assert "0 newly denied, 0 newly allowed, 0 undecided" in same.stdout

    candidate = place / "candidate.yaml"
    candidate.write_text(old.read_text().replace("*.shop.test", "c.test").replace("ports: [7]", "ports: [8]"))
    told = exeat("replay", str(candidate), verdicts, "-o", "json")
    assert told.returncode == 1, told
    result = json.loads(told.stdout)
    denied = {row["destination"] for row in result["newly_denied"]}
    assert {"a.shop.test (dns A)", f"tcp {other.address4}:7"} <= denied
    assert {row["destination"] for row in result["newly_allowed"]} >= {"c.test (dns A)"}
    other.reset()
    stderr = run(bed, place, candidate)
    assert f"tcp {other.address4}:7" in stderr
    assert "denied: a.shop.test (dns A)" in stderr
    assert "denied: c.test" not in stderr
    assert other.count().bytes == 0


def test_a_proposal_from_verdicts_allows_what_they_say_passed(recorded: tuple[Bed, Host, Path]) -> None:
    """Read back it denies nothing of what was let pass; keys that a log adds are passed over."""
    bed, other, place = recorded
    lines = [json.loads(line) for line in (place / "v.jsonl").read_text().splitlines()]
    log = "".join(json.dumps({**line, "seq": at, "chain": "ab"}) + "\n" for at, line in enumerate(lines))
    proposed = place / "proposed.yaml"
    done = exeat("propose", "-", "--name", "from-log", "-o", str(proposed), stdin='{"checkpoint":{}}\n' + log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert 'name: "from-log"' in proposed.read_text()
    replayed = exeat("replay", str(proposed), str(place / "v.jsonl"))
    assert replayed.returncode == 0, replayed.stdout
    other.reset()
    stderr = run(bed, place, proposed)
    assert "denied: c.test" in stderr  # it was denied before, and stays so
    assert "denied: a.shop.test" not in stderr
    assert other.count().bytes == 2


def test_a_line_that_is_no_verdict_is_said(place: Path) -> None:
    """With its file and number."""
    broken = file(place, "v.jsonl", "\n{}\n")
    for arguments in (("propose", broken), ("replay", str(place / "good.yaml"), broken)):
        failed = exeat(*arguments)
        assert failed.returncode == 125
        assert failed.stderr.startswith(f"exeat: {broken}:2: ")
