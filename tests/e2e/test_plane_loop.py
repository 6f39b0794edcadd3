"""The whole loop, all of it real: a plane, an agent, its kernel, an operator at a terminal or a browser, and a workload
that tries the same again and again. What was denied never came to its server; what is allowed now did."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from e2e.agent_holder import hold
from e2e.agent_stage import say
from e2e.gatekeeper import fetch, look_up
from e2e.plane_loop_stage import BACK_S, WEB, Loop, open_loop
from exeat.model.policy import Policy
from exeat.plane.policies.policy_facts import facts_of, facts_text
from exeat.plane.policies.policy_rows import Change, put
from exeat.plane.store.database import open_database
from unit.fake_plane import NODE, revision

CHROMIUM = Path("/usr/bin/chromium")
SOON_S = 1.0  # what changes acts on open connections within that


@pytest.fixture(scope="module")
def running() -> Iterator[Loop]:
    """One plane and one agent for the module."""
    with open_loop() as loop:
        yield loop


@pytest.fixture
def loop(running: Loop) -> Iterator[Loop]:
    """Without what the test before left; nothing has come to any host."""
    for host in (running.stage.shop, running.stage.evil, running.cafe):
        host.reset()
    yield running
    running.remove_all()
    for cgroup in running.stage.top.iterdir():
        if cgroup.is_dir():
            cgroup.rmdir()
    running.stage.wait_until(lambda: not running.stage.json("workloads").get("workloads"))


def test_an_applied_policy_opens_what_was_denied_and_its_removal_cuts_it(loop: Loop) -> None:
    """The one host alone: what nobody opened stays closed, and what another policy opened stays open."""
    stage, cgroup = loop.stage, loop.stage.cgroup("applied")
    loop.apply("base", stage.names("a.shop.test") + stage.rules(stage.shop))
    (node,) = loop.ask("nodes")["nodes"]
    assert re.search(rf"{NODE} +current +base@{node['holdings'][0]['revision'][:7]} ", loop.plane("nodes").stdout)
    assert loop.visit(cgroup, "a.shop.test") == "I am a.shop.test"
    assert loop.visit(cgroup, "a.evil.test") == "no address"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.evil.count().is_untouched
    shown = loop.apply("more", stage.names("a.evil.test") + stage.rules(stage.evil)).stdout
    assert "a.evil.test" in shown
    assert loop.visit(cgroup, "a.evil.test") == "I am a.evil.test"
    assert stage.evil.count().connections == 1
    with hold(stage, cgroup, shop=stage.shop.address4, evil=stage.evil.address4) as held:
        held.wait_open()
        began = time.monotonic()
        loop.plane("policies", "remove", "more", "--reason", "no more")
        for name in ("evil idle", "evil busy"):
            how, when = held.ended(name)
            assert how == "ECONNABORTED"
            assert when - began < SOON_S + 1  # the command itself takes its time to start
        assert held.is_open("shop idle", "shop busy")
    loop.wait_in_force()
    assert loop.visit(cgroup, "a.evil.test") == "no address"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.evil.count().connections == 3
    assert loop.visit(cgroup, "a.shop.test") == "I am a.shop.test"
    assert loop.visit(cgroup, "a.cafe.test") == "no address"
    assert loop.cafe.count().is_untouched


def test_denials_that_an_operator_approves_are_allowed_and_no_others(loop: Loop) -> None:
    """At a question, at a ClientHello on an address that is open already, and at an address that nobody resolved."""
    stage, cgroup = loop.stage, loop.stage.cgroup("approved")
    loop.apply("base", stage.names("a.shop.test"))

    def other_name() -> str:
        return fetch(look_up("a.shop.test")[0], "b.shop.test")

    assert loop.visit(cgroup, "a.evil.test") == "no address"
    assert loop.visit(cgroup, "a.cafe.test") == "no address"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "EPERM"
    assert stage.evil.count().is_untouched
    assert stage.run(other_name, cgroup) != "I am b.shop.test"
    assert stage.shop.count().sni == []
    plain = f"{stage.evil.address4}:7/tcp"
    wanted = {"a.evil.test (dns)", "a.cafe.test (dns)", "b.shop.test:443", plain}

    def shown() -> set[str]:
        lines = loop.plane("denials", "--workload", "approved").stdout.splitlines()[1:]
        return {re.split(r"\s{2,}", line)[0] for line in lines}

    stage.wait_until(lambda: shown() == wanted)
    for destination in ("a.evil.test", "b.shop.test:443", plain):
        words = ["--owner", "ml@example.com", "--reason", "TICKET-7", "--expires", "1d", "--workload", "approved"]
        preview = loop.plane("approve", destination, *words, "--dry-run").stdout
        assert "opens " + destination.split(":")[0] in preview
        assert "TICKET-7 (for ml@example.com, approved by olga)" in preview
        assert loop.plane("approve", destination, *words, "--yes").stdout.splitlines()[-1].startswith("approved: base ")
    loop.wait_in_force()
    assert loop.visit(cgroup, "a.evil.test") == "I am a.evil.test"
    assert loop.visit(cgroup, "b.shop.test") == "I am b.shop.test"
    assert stage.run(lambda: say(stage.evil.address4), cgroup) == "hello"
    assert stage.evil.count().connections == 2
    assert stage.shop.count().sni == ["b.shop.test"]
    assert loop.visit(cgroup, "a.cafe.test") == "no address"
    assert stage.run(lambda: say(loop.cafe.address4), cgroup) == "EPERM"
    assert loop.cafe.count().is_untouched
    history = loop.ask("policies", "history", "base")["history"]
    assert [(one["action"], one["by"]) for one in history][:3] == [("approve", "olga")] * 3


def test_each_connection_counts_once_in_the_report(loop: Loop) -> None:
    """Where a name decides, it is told of at its hello alone; what was denied at a question never came to a connect."""
    stage, cgroup = loop.stage, loop.stage.cgroup("counted")
    loop.apply("base", stage.names("a.shop.test") + stage.rules(stage.shop))
    for _ in range(3):
        assert loop.visit(cgroup, "a.shop.test") == "I am a.shop.test"
    assert stage.run(lambda: fetch(look_up("a.shop.test")[0], "b.shop.test"), cgroup) == "EACCES"
    assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), cgroup) == ("hello", "EPERM")
    assert loop.visit(cgroup, "a.evil.test") == "no address"

    def told() -> tuple[int, int]:
        found = loop.ask("report", "--since", "1h")["workloads"]
        return next(((one["attempts"], one["denied"]) for one in found if one["name"] == stage.path(cgroup)), (0, 0))

    stage.wait_until(lambda: told() == (3 + 1 + 2 + 1, 1 + 1 + 1))
    assert stage.shop.count().connections == 3 + 1 + 1
    assert stage.evil.count().is_untouched


def test_a_quarantine_denies_everything_at_once_until_it_is_lifted(loop: Loop) -> None:
    """To the one workload; its neighbour notices nothing."""
    stage = loop.stage
    bad, good = stage.cgroup("bad"), stage.cgroup("good")
    loop.apply("base", stage.rules(stage.shop))
    with hold(stage, bad, shop=stage.shop.address4) as held, hold(stage, good, shop=stage.shop.address4) as beside:
        held.wait_open()
        beside.wait_open()
        began = time.monotonic()
        loop.plane("quarantine", loop.named(bad), "--reason", "it scans")
        for name in ("shop idle", "shop busy"):
            how, when = held.ended(name)
            assert how == "ECONNABORTED"
            assert when - began < SOON_S + 1
        stage.shop.reset()
        assert stage.run(lambda: say(stage.shop.address4), bad) == "EPERM"
        assert stage.shop.count().connections == 0
        assert stage.run(lambda: say(stage.shop.address4), good) == "hello"
        assert modes(loop) == {"bad": "quarantine", "good": "enforce"}
        assert stage.json("workloads", "bad")["workloads"][0]["mode"] == "MODE_QUARANTINE"
        loop.plane("quarantine", loop.named(bad), "--lift")
        assert modes(loop) == {"bad": "enforce", "good": "enforce"}
        assert stage.run(lambda: say(stage.shop.address4), bad) == "hello"
        assert stage.run(lambda: say(stage.evil.address4), bad) == "EPERM"
        assert beside.is_open("shop idle", "shop busy")
    log = "".join(path.read_text() for path in (stage.directory / "log").glob("verdicts.jsonl*"))
    assert "mode quarantine, by plane: olga" in log


def modes(loop: Loop) -> dict[str, str]:
    """Of each workload, as the plane knows it."""
    return {one["name"].rpartition("/")[2]: one["mode"] for one in loop.ask("workloads")["workloads"]}


def test_what_is_allowed_for_seconds_ends_by_itself(loop: Loop) -> None:
    """With the connection that was made meanwhile; for the one workload only."""
    stage = loop.stage
    lucky, other = stage.cgroup("lucky"), stage.cgroup("other")
    loop.apply("base", stage.rules(stage.shop))
    assert stage.run(lambda: say(stage.evil.address4), lucky) == "EPERM"
    assert stage.evil.count().is_untouched
    destination = f"{stage.evil.address4}:7/tcp"
    told = loop.plane("allow", loop.named(lucky), destination, "--for", "3", "--reason", "a look")
    done = time.monotonic()
    assert f"allowed: {destination} for {loop.named(lucky)}" in told.stdout
    with hold(stage, lucky, evil=stage.evil.address4, shop=stage.shop.address4) as held:
        held.wait_open()
        assert stage.run(lambda: say(stage.evil.address4), other) == "EPERM"
        for name in ("evil idle", "evil busy"):
            how, when = held.ended(name)
            assert how == "ECONNABORTED"
            assert done + 3 - told.duration <= when <= done + 3 + SOON_S
        assert held.is_open("shop idle", "shop busy")
    assert stage.run(lambda: say(stage.evil.address4), lucky) == "EPERM"
    assert stage.evil.count().connections == 2


def test_a_plane_that_was_killed_is_told_what_fell_meanwhile_each_once(loop: Loop) -> None:
    """Enforced both ways without it; afterwards its numbers are those of the agent's own log."""
    stage, cgroup, rounds = loop.stage, loop.stage.cgroup("lonely"), 12
    loop.apply("base", stage.names("a.shop.test") + stage.rules(stage.shop))
    loop.kill_plane()
    for _ in range(rounds):
        assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), cgroup) == ("hello", "EPERM")
    assert loop.visit(cgroup, "a.shop.test") == "I am a.shop.test"
    assert loop.visit(cgroup, "a.evil.test") == "no address"
    assert stage.shop.count().connections == rounds + 1
    assert stage.evil.count().is_untouched
    status = loop.status()
    assert (status["state"], status["fault"] != "") == ("away", True)
    stage.wait_until(lambda: int(loop.status()["unreported"]) >= 2 * rounds)
    shown = stage.exeat("status", check=False).stdout
    assert "plane 127.0.0.1:9470: away for" in shown
    assert "of the log wait to be reported" in shown
    assert (gone := loop.plane("nodes", check=False)).returncode == 4, gone
    loop.start_plane()
    loop.wait_reported()
    path = stage.path(cgroup)
    fell = "SELECT count(*) FROM verdicts WHERE workload = ? AND verdict = ? AND target = ?"
    denied = (path, 2, stage.evil.address4)
    stage.wait_until(lambda: loop.rows(fell, *denied)[0][0] == rounds)
    assert loop.stored() == loop.logged()
    assert len(set(loop.stored())) == len(loop.stored())
    assert [lost for (lost,) in loop.rows("SELECT lost FROM logs WHERE node = ?", NODE)] == [0]
    stage.exeat("audit", "verify", str(stage.directory / "log"), "--key", str(stage.directory / "lib" / "audit.pub"))
    (node,) = loop.ask("nodes")["nodes"]
    assert (node["state"], node["is_connected"]) == ("current", True)
    assert f"plane 127.0.0.1:9470 (plane-1, exeat {node['version']}): connected for" in stage.exeat("status").stdout


def test_an_agent_that_starts_without_its_plane_enforces_what_it_sent_last(loop: Loop) -> None:
    """Killed, and the plane with it: in control at once, by what is on disk."""
    stage, cgroup = loop.stage, loop.stage.cgroup("orphan")
    loop.apply("base", stage.rules(stage.shop))
    stage.kill()
    stage.wait_until(lambda: not loop.ask("nodes", NODE)["is_connected"])
    loop.kill_plane()
    assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), cgroup) == ("hello", "EPERM")
    stage.start()
    late = stage.cgroup("later")  # nobody before this agent has seen it
    stage.wait_until(lambda: len(stage.json("workloads")["workloads"]) == 2)
    for one in (cgroup, late):
        assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), one) == ("hello", "EPERM")
    assert stage.evil.count().is_untouched
    status = stage.json("status")
    (policy,) = status["policies"]
    assert (policy["name"], policy["source"], policy["workloads"]) == ("base", "plane", 2)
    assert status["plane"]["state"] == "away"
    assert int(status["in_control_ms"]) < 5000
    loop.start_plane()
    loop.wait_reported()
    loop.apply("base", stage.rules(stage.shop) + stage.rules(stage.evil))
    assert stage.run(lambda: say(stage.evil.address4), late) == "hello"
    stage.wait_until(lambda: loop.stored() == loop.logged())


def test_what_the_agent_cannot_enforce_is_refused_and_shown_and_the_old_stays(loop: Loop) -> None:
    """A newer replica, which knows a field that this agent does not, has written it into the store."""
    stage, cgroup = loop.stage, loop.stage.cgroup("older")
    loop.apply("base", stage.rules(stage.shop))
    text = stage.policy("base", stage.rules(stage.evil), more="  tomorrow: true\n")
    loop.kill_plane()
    database = open_database(f"sqlite:{loop.store}")
    now_ns = time.time_ns()
    with database.writing() as tx:
        facts = facts_text(facts_of(Policy("base"), len(text)))
        tx.do("INSERT INTO documents VALUES (?, ?, ?, ?, ?)", revision(text), "base", text, facts, now_ns)
        put(tx, "base", revision(text), Change("olga", "from tomorrow", now_ns))
    database.close()
    loop.start_plane()
    fault = "SELECT fault FROM nodes WHERE name = ?"
    stage.wait_until(lambda: loop.rows(fault, NODE) != [("",)], BACK_S)
    (node,) = loop.ask("nodes")["nodes"]
    assert node["state"] == "refused"
    assert re.search(r"base:\d+: .*tomorrow", node["fault"])
    assert "tomorrow" in loop.plane("nodes").stdout
    assert [one["revision"] for one in node["holdings"]] != [revision(text)]
    assert any("what the plane sent is refused: base:" in one for one in stage.json("status")["complaints"])
    assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), cgroup) == ("hello", "EPERM")
    assert stage.evil.count().is_untouched
    told = loop.apply("base", stage.rules(stage.evil)).stdout  # what this plane cannot read can be replaced
    assert "what it opens and closes cannot be told" in told
    (node,) = loop.ask("nodes")["nodes"]
    assert (node["state"], node["fault"]) == ("current", "")
    assert not stage.json("status").get("complaints")
    assert stage.run(lambda: (say(stage.shop.address4), say(stage.evil.address4)), cgroup) == ("EPERM", "hello")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium: apt install chromium")
def test_a_denial_on_the_live_page_is_approved_and_the_same_request_goes_through(loop: Loop, tmp_path: Path) -> None:
    """By mouse, from signing in to the server's first connection."""
    stage, cgroup = loop.stage, loop.stage.cgroup("browsed")
    loop.apply("base", stage.names("a.shop.test"))

    def approve(page: Page) -> None:
        page.goto("/sign-in")
        page.get_by_label("Token").fill(loop.token.read_text().strip())
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("row").filter(has_text=NODE)).to_be_visible()
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Live").click()
        expect(page.locator("#live-state")).to_have_text("Live")
        assert loop.visit(cgroup, "a.evil.test") == "no address"
        assert loop.visit(cgroup, "a.cafe.test") == "no address"
        live = page.get_by_role("row").filter(has_text="a.evil.test").filter(has_text="browsed")
        expect(live.first).to_contain_text("name_not_allowed")
        assert stage.evil.count().is_untouched
        page.screenshot(path=tmp_path / "live.png")
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Denials").click()
        row = page.get_by_role("row").filter(has_text="a.evil.test").filter(has_text="browsed")
        row.get_by_role("link", name="Approve").click()
        expect(page.get_by_text("opens a.evil.test:443 (tls) by rule approved-a-evil-test-443")).to_be_visible()
        page.get_by_label("Ends after").select_option("7 days")
        page.get_by_label("Reason").fill("TICKET-8")
        page.get_by_label("Reason").blur()
        expect(page.locator(".diff .add").first).to_contain_text("TICKET-8")
        page.screenshot(path=tmp_path / "preview.png")
        assert loop.visit(cgroup, "a.evil.test") == "no address"
        page.get_by_role("button", name="Approve for every node").click()
        expect(page.get_by_role("status")).to_contain_text("rule approved-a-evil-test-443 is in base now")

    def browse() -> None:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(base_url=WEB)
            page.set_default_timeout(10_000)
            approve(page)
            browser.close()

    stage.bed.network.client.call(browse)  # where the plane's door is
    stage.wait_until(lambda: loop.visit(cgroup, "a.evil.test") == "I am a.evil.test")
    assert stage.evil.count().connections == 1
    assert loop.visit(cgroup, "a.cafe.test") == "no address"
    assert loop.cafe.count().is_untouched
    assert (tmp_path / "live.png").stat().st_size > 10_000
