"""Signed session contexts, with a real agent: what a session opens is open while it lasts, and nothing longer."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bed import start_in
from e2e.agent_holder import hold
from e2e.agent_stage import AgentStage, open_agent_stage, say
from e2e.guard import remove_cgroup
from exeat.v1 import agent_pb2 as pb
from unit.session_words import Orchestrator, write_keys

LASTS_S = 12  # a session that ends during a test; three programs must start in it, on a busy machine too
LATE_S = 10.0  # so much later it may be told on such a machine
SOON_S = 1.5  # on one that has nothing else to do: the control loop looks at clocks and keys each half second
CUT = ("ECONNABORTED", "EPERM")
ALICE = "{session: {user: alice}}"


class Sessions:
    """The stage's orchestrator, and what it does with the agent."""

    def __init__(self, stage: AgentStage) -> None:
        self.stage = stage
        self.keys = stage.directory / "sessions.pub"
        self.signer = Orchestrator()
        write_keys(self.keys, self.signer)

    def file(self, subject: str, lasts_s: float = 600, **changed: Any) -> str:
        """A token in a file."""
        now = time.time()
        path = self.stage.directory / f"token-{time.monotonic_ns()}"
        path.write_text(self.signer.token(**({"sub": subject, "iat": now, "exp": now + lasts_s} | changed)))
        return str(path)

    def set(self, workload: str, subject: str, lasts_s: float = 600, **changed: Any) -> None:
        """`exeat session set`."""
        self.stage.exeat("session", "set", workload, "--token-file", self.file(subject, lasts_s, **changed))

    def refused(self, workload: str, token: str) -> str:
        """Why a token is not taken."""
        finished = self.stage.exeat("session", "set", workload, "--token-file", token, check=False)
        assert finished.returncode in (1, 2), finished
        return finished.stderr

    def ending(self, subject: str) -> tuple[str, float]:
        """A token in a file, and when its session ends by the monotonic clock, or a moment later."""
        ends = time.monotonic() + LASTS_S
        return self.file(subject, LASTS_S), ends

    def shown(self, workload: str) -> dict[str, Any]:
        """What the agent says of a workload."""
        one: dict[str, Any] = self.stage.json("workloads", workload)["workloads"][0]
        return one


def complaints(sessions: Sessions) -> list[str]:
    """About the keys."""
    return [one for one in sessions.stage.json("status").get("complaints", []) if str(sessions.keys) in one]


def subject_of(stage: AgentStage, name: str, rules: str, subject: str) -> None:
    """A policy with this subject."""
    text = stage.policy(name, rules)
    stage.write(name, text.replace(f'{{cgroups: ["{stage.subject}"]}}', subject))


@pytest.fixture(scope="module")
def running() -> Iterator[Sessions]:
    """One agent for the module: `alice` may reach the shop, user bob with tool `web` the evil one."""
    with open_agent_stage() as stage:
        settings = stage.directory / "exeat.yaml"
        settings.write_text(settings.read_text() + f"  sessions: {{keys: {stage.directory}/sessions.pub}}\n")
        subject_of(stage, "alice", stage.rules(stage.shop), ALICE)
        subject_of(stage, "bob", stage.rules(stage.evil), "{session: {user: bob, tool: web}}")
        sessions = Sessions(stage)
        stage.start()
        yield sessions


@pytest.fixture
def sessions(running: Sessions) -> Iterator[Sessions]:
    """Without the cgroups of the test before, and with the one key."""
    stage = running.stage
    stage.shop.reset()
    stage.evil.reset()
    start_again(stage)
    yield running
    write_keys(running.keys, running.signer)
    start_again(stage)
    for cgroup in stage.top.iterdir():
        if cgroup.is_dir():
            remove_cgroup(cgroup)
    stage.wait_until(lambda: not stage.json("workloads").get("workloads"))
    stage.wait_until(lambda: not complaints(running))


def start_again(stage: AgentStage) -> None:
    """If a test failed before it did: the others shall tell of themselves."""
    if stage.process is None:
        stage.start()


def reached(stage: AgentStage, cgroup: Path) -> str:
    """Which of the two hosts a workload reaches, by its own word and by theirs."""
    found = []
    for host in (stage.shop, stage.evil):
        before = host.count().connections
        said = stage.run(lambda host=host: say(host.address4), cgroup)
        assert said in ("hello", "EPERM")
        assert host.count().connections - before == (said == "hello"), host.name
        found += [host.name] if said == "hello" else []
    return "+".join(found)


def test_a_session_opens_what_its_policy_says_and_its_verdicts_say_whose_it_is(sessions: Sessions) -> None:
    """Before it the workload reaches nothing; under it the one host, and the other one hears nothing."""
    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(cgroup))
    assert reached(stage, cgroup) == ""
    sessions.set("coder-1", "coder-1", session="s-1", run="r-9")
    assert reached(stage, cgroup) == "shop"
    assert (stage.shop.count().connections, stage.evil.count().connections) == (1, 0)
    who = sessions.shown("coder-1")["who"]
    assert (who["session"], who["user"], who["tool"], who["run"]) == ("s-1", "alice", "shell", "r-9")
    assert "session" in stage.exeat("workloads", "coder-1").stdout

    def told() -> set[tuple[str, str]]:
        with stage.client() as agent:
            request = pb.WatchVerdictsRequest(filter=pb.VerdictFilter(workload=stage.path(cgroup)))
            request.since.FromSeconds(1)
            records = [one for response in agent.watch_verdicts(request) for one in response.verdicts]
        return {(one.who.session, one.who.user) for one in records if one.policy == "alice" and one.hook != "agent"}

    stage.wait_until(lambda: told() == {("s-1", "alice")})


def test_the_next_users_session_takes_the_place_of_the_one_before(sessions: Sessions) -> None:
    """What only the first was allowed is cut; both words of a policy must be those of the session."""
    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(cgroup), "--session-file", sessions.file("coder-1"))
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        sessions.set("coder-1", "coder-1", user="bob", tool="web")
        for name in held.names:
            assert held.ended(name)[0] in CUT
    assert reached(stage, cgroup) == "evil"
    sessions.set("coder-1", "coder-1", user="bob", tool="shell")
    assert reached(stage, cgroup) == ""


def test_a_session_that_ends_leaves_its_workload_behind_a_wall(sessions: Sessions) -> None:
    """At its time open connections end, and nothing new begins, until another token comes; nobody lets it go."""
    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    path = stage.path(cgroup)
    assert reached(stage, cgroup) == "shop+evil"  # nobody's workload: it becomes one by its session
    token, ends = sessions.ending(path)
    stage.exeat("session", "set", path, "--token-file", token)
    assert reached(stage, cgroup) == "shop"
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        for name in held.names:
            how, when = held.ended(name, LASTS_S + LATE_S)
            assert how in CUT
            assert ends - 0.5 < when < ends + LATE_S
    stage.shop.reset()
    stage.wait_until(lambda: "session" not in {key for key, text in sessions.shown(path)["who"].items() if text})
    assert reached(stage, cgroup) == ""
    assert stage.shop.count().connections == 0
    assert "session" in stage.exeat("workloads", path).stdout
    assert "has expired" in sessions.refused(path, token)
    sessions.set(path, path)
    assert reached(stage, cgroup) == "shop"
    assert "has no session context any more" in stage.exeat("session", "end", path).stdout
    assert reached(stage, cgroup) == "shop+evil"
    assert stage.exeat("session", "end", path, check=False).returncode == 1


def test_a_renewed_session_cuts_nothing(sessions: Sessions) -> None:
    """Each new token carries it on beyond the end of the one before."""
    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    token, ends = sessions.ending("coder-1")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(cgroup), "--session-file", token)
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        sessions.set("coder-1", "coder-1", 60)
        time.sleep(max(0.0, ends + SOON_S - time.monotonic()))
        assert held.is_open(*held.names)
    assert reached(stage, cgroup) == "shop"


def test_the_kernel_ends_a_session_when_no_agent_runs(sessions: Sessions) -> None:
    """And the agent that comes then does not bring it back; one that has not ended holds at once."""
    stage, short, long = sessions.stage, sessions.stage.cgroup("short"), sessions.stage.cgroup("long")
    stage.exeat("register", "long", "--cgroup", stage.path(long), "--session-file", sessions.file("long"))
    token, ends = sessions.ending("short")
    stage.exeat("register", "short", "--cgroup", stage.path(short), "--session-file", token)
    stage.kill()
    assert (reached(stage, short), reached(stage, long)) == ("shop", "shop")
    time.sleep(max(0.0, ends + 0.5 - time.monotonic()))
    stage.shop.reset()
    assert (reached(stage, short), stage.shop.count().connections) == ("", 0)
    assert reached(stage, long) == "shop"
    stage.start()
    assert (reached(stage, short), reached(stage, long)) == ("", "shop")
    assert sessions.shown("long")["who"]["user"] == "alice"
    assert not sessions.shown("short")["who"].get("user")


def test_a_withdrawn_key_ends_its_sessions_and_garbage_ends_none(sessions: Sessions) -> None:
    """While the agent runs, and over a restart; what cannot be read is complained about."""
    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(cgroup), "--session-file", sessions.file("coder-1"))
    sessions.keys.write_text("no keys at all\n")
    stage.wait_until(lambda: complaints(sessions))
    assert reached(stage, cgroup) == "shop"
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        write_keys(sessions.keys, Orchestrator())
        withdrawn = time.monotonic()
        for name in held.names:
            how, when = held.ended(name)
            assert (how in CUT, when < withdrawn + LATE_S) == (True, True)
    assert reached(stage, cgroup) == ""
    write_keys(sessions.keys, sessions.signer)
    stage.wait_until(lambda: reached(stage, cgroup) == "shop")
    stage.stop()
    write_keys(sessions.keys, Orchestrator())
    stage.start()
    assert reached(stage, cgroup) == ""


@pytest.mark.alone
def test_the_end_of_a_session_and_of_its_key_cut_soon(sessions: Sessions) -> None:
    """By the clock: what was open is open for so long and not longer."""
    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    token, ends = sessions.ending("coder-1")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(cgroup), "--session-file", token)
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        cut = [held.ended(name, LASTS_S + LATE_S)[1] for name in held.names]
    assert ends - 0.5 < min(cut) <= max(cut) < ends + SOON_S
    sessions.set("coder-1", "coder-1")
    with hold(stage, cgroup, shop=stage.shop.address4) as held:
        held.wait_open()
        write_keys(sessions.keys, Orchestrator())
        withdrawn = time.monotonic()
        assert max(held.ended(name)[1] for name in held.names) < withdrawn + SOON_S + 0.5


def test_what_is_not_signed_for_this_workload_changes_nothing(sessions: Sessions) -> None:
    """A forger's, another workload's, an old one: each is refused, by `register` too, and what holds goes on."""
    stage, one, two = sessions.stage, sessions.stage.cgroup("one"), sessions.stage.cgroup("two")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(one), "--session-file", sessions.file("coder-1"))
    stage.exeat("register", "coder-2", "--cgroup", stage.path(two))
    forged = stage.directory / "forged"
    forged.write_text(Orchestrator().token(sub="coder-2"))
    assert "altered, or signed by another key" in sessions.refused("coder-2", str(forged))
    assert "is for workload `coder-1`" in sessions.refused("coder-2", sessions.file("coder-1"))
    old = sessions.file("coder-1", iat=time.time() - 100, user="bob", tool="web")
    assert "was issued before the one" in sessions.refused("coder-1", old)
    bad = stage.exeat("register", "coder-3", "--cgroup", stage.path(two), "--session-file", str(forged), check=False)
    assert bad.returncode == 1
    assert (reached(stage, one), reached(stage, two)) == ("shop", "")
    assert sessions.shown("coder-2")["name"] == "coder-2"
    stage.exeat("register", "coder-9", "--cgroup", stage.path(one))  # what was signed for coder-1 is not coder-9's
    assert reached(stage, one) == ""
    stage.exeat("register", "coder-1", "--cgroup", stage.path(one), "--session-file", sessions.file("coder-1"))
    assert reached(stage, one) == "shop"
    stage.exeat("unregister", "coder-1")
    assert reached(stage, one) == "shop+evil"


def test_of_many_tokens_at_once_the_last_issued_holds(sessions: Sessions) -> None:
    """Whoever comes late with an older one is refused; none is half in force."""
    from concurrent.futures import ThreadPoolExecutor

    from exeat.errors import Refused

    stage, cgroup = sessions.stage, sessions.stage.cgroup("one")
    stage.exeat("register", "coder-1", "--cgroup", stage.path(cgroup))
    now = int(time.time())
    tokens = [
        sessions.signer.token(
            sub="coder-1", iat=now - 60 + number, session=f"s-{number}", user="alice" if number == 23 else "eve"
        )
        for number in range(24)
    ]

    def bring(token: str) -> str:
        """Why it was refused, if it was."""
        with stage.client() as agent:
            try:
                agent.set_session(pb.SetSessionRequest(workload="coder-1", token=token))
            except Refused as error:
                return str(error)
        return ""

    with ThreadPoolExecutor(8) as crowd:
        said = list(crowd.map(bring, [*tokens[12:], *tokens[:12]]))
    assert said[11] == ""
    assert all("was issued before the one" in one for one in said if one)
    assert any(said)
    assert sessions.shown("coder-1")["who"]["session"] == "s-23"
    assert reached(stage, cgroup) == "shop"


def test_a_run_brings_its_session_along(sessions: Sessions) -> None:
    """It is registered under the name that the context is for; without an agent there is no such run."""
    stage = sessions.stage
    script = f"import socket; socket.create_connection(('{stage.shop.address4}', 7), 5).close()"
    command = ["--quiet", "--user", "root", "--", "/usr/bin/python3", "-c", script]
    assert stage.exeat("run", *command, check=False).returncode == 1
    assert stage.shop.count().connections == 0
    finished = stage.exeat("run", "--session-file", sessions.file("run-7"), *command, check=False)
    assert finished.returncode == 0, finished
    assert stage.shop.count().connections == 1
    refused = stage.exeat("run", "--session-file", sessions.file("run-7", 0.001), *command, check=False)
    assert (refused.returncode, "has expired" in refused.stderr) == (125, True)
    alone = stage.exeat("run", "--no-agent", "--session-file", sessions.file("run-7"), *command, check=False)
    assert (alone.returncode, "is the agent's matter" in alone.stderr) == (125, True)
    assert stage.shop.count().connections == 1


def test_a_session_stays_with_the_processes_of_its_cgroup(sessions: Sessions) -> None:
    """Registered by a process, and a neighbour's word is not its own."""
    stage, one, two = sessions.stage, sessions.stage.cgroup("one"), sessions.stage.cgroup("two")
    process = start_in(stage.bed, ["sleep", "60"], cgroup=one)
    stage.wait_until(lambda: str(process.pid) in (one / "cgroup.procs").read_text().split())
    stage.exeat("register", "coder-1", "--pid", str(process.pid), "--session-file", sessions.file("coder-1"))
    stage.exeat("register", "coder-2", "--cgroup", stage.path(two))
    process.kill()
    process.wait()
    stage.bed.disown(process)
    assert (reached(stage, one), reached(stage, two)) == ("shop", "")
