"""Denials to rules: the narrowest one, only what was looked at, and never where no rule would help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from exeat.core.policy_file import read_policy
from exeat.errors import Refused, StatusWord
from exeat.model.policy import Protocol
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.approval.aim import aim_text, parse_aim
from exeat.plane.approval.approve import Approval, Approver, Ask, Preview, approve, preview, settle
from exeat.plane.approval.rule import can_rule
from exeat.plane.policies.policies import Plan, Source, document, kept_one, read_all
from exeat.plane.store.database import Database
from plane.plane_stage import CODER, DAY, HOUR, Stage, Told, open_stage, put_policy, tell
from plane.stores import KINDS, open_store

NOW = time.time_ns()
IP = "203.0.113.9"
R = Reason
END = datetime.fromtimestamp(NOW // 10**9, UTC) + timedelta(days=90)


@pytest.fixture(name="database", params=KINDS)
def a_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """With the policy `coder`."""
    with open_store(request.param, tmp_path) as database:
        put_policy(database)
        yield database


@pytest.fixture(name="store")
def a_store(tmp_path: Path) -> Iterator[Database]:
    """The same in SQLite only, where the database makes no difference."""
    with open_store("sqlite", tmp_path) as database:
        put_policy(database)
        yield database


def ask(aim: str, **words: Any) -> Ask:
    """With all that it needs."""
    return Ask(**({"aim": parse_aim(aim), "owner": "ml@x.test", "reason": "builds", "expires": END} | words))


def look(database: Database, aim: str, **words: Any) -> Preview:
    """The preview."""
    with database.reading() as tx:
        return preview(tx, ask(aim, **words), "alice", NOW)


def allow(database: Database, aim: str, token: str, **words: Any) -> Approval:
    """The approval."""
    with database.writing() as tx:
        return approve(tx, ask(aim, **words), "alice", token, NOW)


def refusal(database: Database, aim: str, **words: Any) -> tuple[StatusWord, str]:
    """Of the preview."""
    with pytest.raises(Refused) as caught:
        look(database, aim, **words)
    return caught.value.word, str(caught.value)


def text_of(database: Database, name: str = "coder") -> str:
    """What holds."""
    with database.reading() as tx:
        held = kept_one(tx, name)
        assert held is not None
        return document(tx, held[0])


def test_a_denied_name_becomes_a_rule_for_this_name_and_port(database: Database) -> None:
    """First seen, then done; who, when and since when it was denied is kept."""
    first = NOW - 3 * DAY
    tell(database, Told("pypi.org", count=3), Told("pypi.org", hook="query", port=53, protocol=17, at_ns=first))
    seen = look(database, "pypi.org")
    assert text_of(database) == CODER
    assert (seen.policy, seen.denials, seen.denied_ns, seen.why_not) == ("coder", 4, first, "")
    assert [change.sentence.partition(" by ")[0] for change in seen.changes] == ["opens pypi.org:443 (tls)"]
    assert [line for line in seen.text_diff if line.startswith(("+ ", "- "))] == [
        "+  # builds (for ml@x.test, approved by alice)",
        "+  - name: approved-pypi-org-443",
        "+    protocol: tls",
        '+    hosts: ["pypi.org"]',
        "+    ports: [443]",
        f'+    expires: "{END:%Y-%m-%dT%H:%M:%SZ}"',
    ]
    done = allow(database, "pypi.org", seen.token)
    assert text_of(database) == seen.text
    rule = read_policy(seen.text, "x").policy.rules[-1]
    assert (rule.protocol, [str(host) for host in rule.hosts], rule.cidrs) == (Protocol.TLS, ["pypi.org"], ())
    for expires in (END, END + timedelta(days=1)):  # a later end is no reason for a second rule
        assert "allows pypi.org already" in refusal(database, "pypi.org", expires=expires)[1]
    with database.reading() as tx:
        row = tx.one("SELECT policy, rule, destination, by_whom, owner, reason, denied_ns, history_id FROM approvals")
        entry = tx.one("SELECT action, by_whom, revision FROM history WHERE id = ?", done.history_id)
    assert row == ("coder", rule.name, "pypi.org", "alice", "ml@x.test", "builds", first, done.history_id)
    assert entry == ("approve", "alice", done.revision)


@pytest.mark.parametrize(
    ("told", "aim", "written"),
    [
        (Told(IP, R.NOT_RESOLVED, hook="connect", port=5432), IP, f"tcp {IP}/32 5432"),
        (Told(IP, R.PORT_NOT_ALLOWED, hook="send", port=443, protocol=17), IP, f"udp {IP}/32 443"),
        (Told("2001:db8::9", R.ADDRESS_NOT_ALLOWED, hook="connect"), "[2001:db8::9]:443", "tcp 2001:db8::9/128 443"),
        (Told(IP, R.ADDRESS_NOT_ALLOWED, hook="packet", port=0, protocol=1), IP, f"icmp {IP}/32 -"),
        (Told("127.0.0.1", R.LOOPBACK_NOT_OWN, hook="connect", port=8080), "127.0.0.1", "tcp 127.0.0.1/32 8080"),
        (Told("db.test", hook="query", port=53, protocol=17), "db.test:5432/tcp", "tcp db.test 5432"),
        (Told("db.test", hook="query", port=53, protocol=17), "db.test", "tls db.test 443"),
        (Told("db.test", port=8443), "db.test", "tls db.test 8443"),
        (Told("db.test", verdict=Verdict.AUDIT), "DB.test.", "tls db.test 443"),
        (Told("db.test", Reason.UNDECLARED), "db.test", "tls db.test 443"),
        (Told("dns.google", Reason.DOH_HOST), "dns.google", "tls dns.google 443"),
    ],
)
def test_the_rule_is_as_narrow_as_what_was_denied(store: Database, told: Told, aim: str, written: str) -> None:
    """One host or address, one port, one protocol."""
    tell(store, told)
    rule = look(store, aim).rule
    where = [*map(str, rule.hosts), *map(str, rule.cidrs)]
    assert f"{rule.protocol} {' '.join(where)} {','.join(map(str, rule.ports)) or '-'}" == written


@pytest.mark.parametrize(
    "told",
    [
        Told("x.test"),
        Told("x.test", port=8443),
        Told("x.test", hook="query", port=53, protocol=17),
        Told(IP, R.NOT_RESOLVED, hook="connect"),
        Told("2001:db8::9", R.NOT_RESOLVED, hook="send", port=443, protocol=17),
        Told("2001:db8::9", R.ADDRESS_NOT_ALLOWED, hook="packet", port=0, protocol=58),
    ],
)
def test_a_denial_as_it_is_listed_is_what_can_be_approved(store: Database, told: Told) -> None:
    """A hello's TCP is no `tcp` rule, which would let anything pass; a question's port is the resolver's."""
    tell(store, told)
    listed = aim_text(told.target, told.port, told.protocol, told.hook)
    alone = f"[{told.target}]" if ":" in told.target else told.target
    assert look(store, listed).rule == look(store, alone).rule


def test_what_an_approver_should_know_is_said(store: Database) -> None:
    """An assumed port, an address without a name, a special address, a resolver, a denial that stays."""
    tell(
        store,
        Told("asked.test", hook="query", port=53, protocol=17),
        Told("10.0.0.9", Reason.ADDRESS_NOT_ALLOWED, hook="connect", port=5432),
        Told("dns.google", Reason.DOH_HOST),
        Told("mixed.test"),
        Told("mixed.test", Reason.ECH),
    )
    assert "TLS on port 443 is assumed" in look(store, "asked.test").remarks[0]
    assert [remark.partition(":")[0] for remark in look(store, "10.0.0.9").remarks] == [
        "10.0.0.9 is private",
        "an address carries no name",
    ]
    assert "resolves names over HTTPS" in look(store, "dns.google").remarks[0]
    assert "ech will stay" in look(store, "mixed.test").remarks[0]


def test_a_wildcard_only_where_somebody_asks_for_it(store: Database) -> None:
    """And only one that covers what was denied, and not everybody's."""
    tell(store, Told("a.cdn.example.org"))
    assert str(look(store, "a.cdn.example.org").rule.hosts[0]) == "a.cdn.example.org"
    seen = look(store, "a.cdn.example.org", wildcard="**.example.org")
    assert str(seen.rule.hosts[0]) == "**.example.org"
    assert any("is wide" in remark for remark in seen.remarks)
    for wildcard, words in (("*.example.org", "does not cover"), ("**.org", "everybody's hosts"), ("*", "every name")):
        word, sentence = refusal(store, "a.cdn.example.org", wildcard=wildcard)
        assert (word, words in sentence) == (StatusWord.INVALID, True), sentence


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason >= 16 and not can_rule(reason)])
def test_what_no_rule_can_allow_is_refused_with_what_to_do(store: Database, reason: Reason) -> None:
    """For every such reason; beside a denial that a rule can allow, it is a remark."""
    tell(store, Told("x.test", reason))
    word, sentence = refusal(store, "x.test")
    assert word is StatusWord.PRECONDITION
    assert sentence.startswith(f"no rule can allow this ({reason.word}): ")
    tell(store, Told("x.test", Reason.NAME_NOT_ALLOWED))
    assert any(reason.word in remark for remark in look(store, "x.test").remarks)


@pytest.mark.parametrize(
    ("aim", "words", "sentence"),
    [
        ("never.test", {}, "nothing to never.test was denied"),
        ("two.test", {}, "with several ports (443, 8443)"),
        ("203.0.113.7", {}, "with several protocols"),
        ("203.0.113.7:443/tls", {}, "tls needs a name"),
        ("203.0.113.7:443/tcp", {"wildcard": "*.x.test"}, "a wildcard stands for names"),
        ("both.test", {}, "several policies denied both.test (coder, web): say which one"),
        ("both.test", {"policy": "other"}, "`other` did not deny both.test: coder, web did"),
        ("file.test", {}, "the plane has no policy from-a-file: it comes from a file"),
        ("203.0.113.8", {}, "port 853 carries names around"),
        ("one.test/icmp", {}, "icmp carries no names"),
        ("asked.test/tcp", {}, "was only asked for: say the port"),
        ("one.test", {"owner": " "}, "needs its owner"),
        ("one.test", {"reason": ""}, "needs its reason"),
        ("one.test", {"expires": END + timedelta(days=400)}, "in the next 400 days"),
        ("one.test", {"expires": END - timedelta(days=100)}, "in the next 400 days"),
        ("one.test", {"workload": "/elsewhere"}, "nothing to one.test was denied"),
        ("one.test", {"node": "web-2"}, "nothing to one.test was denied"),
        ("one.test:444", {}, "nothing to one.test:444 was denied"),
        ("long-ago.test", {}, "nothing to long-ago.test was denied"),
        ("allowed.test", {}, "nothing to allowed.test was denied"),
        ("api.example.com", {}, "allows api.example.com already"),
    ],
)
def test_what_is_not_clear_is_asked_for(store: Database, aim: str, words: dict[str, Any], sentence: str) -> None:
    """No guess where several things could be meant. `one.test` by itself is approved."""
    put_policy(store, CODER.replace("coder", "web"))
    put_policy(store, CODER.replace("coder", "other"))
    tell(
        store,
        Told("one.test"),
        Told("two.test"),
        Told("two.test", port=8443),
        Told("203.0.113.7", Reason.NOT_RESOLVED, hook="connect"),
        Told("203.0.113.7", Reason.NOT_RESOLVED, hook="send", protocol=17),
        Told("203.0.113.8", Reason.DNS_OVER_TLS, hook="connect", port=853),
        Told("203.0.113.8", Reason.ADDRESS_NOT_ALLOWED, hook="connect", port=853),
        Told("both.test", policy="coder+web"),
        Told("file.test", policy="from-a-file"),
        Told("asked.test", hook="query", port=53, protocol=17),
        Told("long-ago.test", at_ns=NOW - 31 * DAY),
        Told("allowed.test", Reason.NAME_ALLOWED, Verdict.FORWARDED),
        Told("api.example.com", Reason.NAME_NOT_ALLOWED, at_ns=NOW - HOUR),
    )
    assert look(store, "one.test").policy == "coder"
    assert sentence in refusal(store, aim, **words)[1]


def test_of_policies_that_hold_together_one_is_named_or_is_the_planes(store: Database) -> None:
    """The other part may be a file on the node."""
    put_policy(store, CODER.replace("coder", "web"))
    tell(store, Told("both.test", policy="coder+web"), Told("mine.test", policy="coder+from-a-file"))
    assert look(store, "both.test", policy="web").policy == "web"
    assert look(store, "mine.test").policy == "coder"


def test_a_policy_that_changed_since_its_preview_is_looked_at_again(database: Database) -> None:
    """Nothing is applied that nobody has seen; a token of something else is none."""
    tell(database, Told("pypi.org"), Told("npmjs.test"))
    seen, other = look(database, "pypi.org"), look(database, "npmjs.test")
    for token in ("", "x" * 32, other.token, "é"):
        with pytest.raises(Refused, match="look at it again") as caught:
            allow(database, "pypi.org", token)
        assert caught.value.word is StatusWord.PRECONDITION
    for words in ({"owner": "mallory"}, {"reason": "other"}, {"expires": END + timedelta(seconds=1)}):
        with pytest.raises(Refused, match="look at it again"):
            allow(database, "pypi.org", seen.token, **words)
    put_policy(database, CODER.replace("# the model", "# a model"))
    with pytest.raises(Refused, match="look at it again"):
        allow(database, "pypi.org", seen.token)
    assert "pypi" not in text_of(database)
    allow(database, "pypi.org", look(database, "pypi.org").token)
    assert "pypi" in text_of(database)


def test_of_two_who_settle_at_the_same_time_the_second_looks_again(database: Database) -> None:
    """Both had a preview of the same revision, and the right token for it."""
    tell(database, Told("pypi.org"), Told("npmjs.test"))
    both = [(ask(aim), look(database, aim)) for aim in ("pypi.org", "npmjs.test")]
    drafts = [read_all([(seen.policy, seen.text)]) for _, seen in both]
    with database.writing() as tx:
        settle(tx, *both[0], Approver("alice", NOW), drafts[0])
    with pytest.raises(Refused, match="look at it again"), database.writing() as tx:
        settle(tx, *both[1], Approver("bob", NOW), drafts[1])
    assert ("pypi.org" in text_of(database), "npmjs" in text_of(database)) == (True, False)


def test_a_policy_of_the_directory_is_shown_and_not_changed(store: Database) -> None:
    """The diff is there, to be committed."""
    put_policy(store, CODER.replace("coder", "in-git"), source=Source.DIRECTORY)
    tell(store, Told("pypi.org", policy="in-git"))
    seen = look(store, "pypi.org")
    assert "directory" in seen.why_not
    assert seen.text_diff
    with pytest.raises(Refused, match="make this change there, and commit it"):
        allow(store, "pypi.org", seen.token)


def test_an_approval_takes_no_unfinished_roll_out_along(store: Database) -> None:
    """It would go to every node at once."""
    put_policy(store, CODER.replace("api.example.com", "api2.example.com"), plan=Plan())
    tell(store, Told("pypi.org"))
    seen = look(store, "pypi.org")
    with pytest.raises(Refused, match="finish or cancel it, then approve"):
        allow(store, "pypi.org", seen.token)


def test_a_rule_ends_with_its_policy_at_the_latest(store: Database) -> None:
    """And an expired policy takes none."""
    soon = END - timedelta(days=80)
    for name, expires in (("short", soon), ("over", END - timedelta(days=91))):
        spec = f'spec:\n  expires: "{expires:%Y-%m-%dT%H:%M:%SZ}"\n'
        put_policy(store, CODER.replace("coder", name).replace("spec:\n", spec))
        tell(store, Told("pypi.org", policy=name, workload=f"/{name}"))
    seen = look(store, "pypi.org", policy="short")
    assert seen.rule.expires == soon
    assert any("the rule with it" in remark for remark in seen.remarks)
    assert "has expired" in refusal(store, "pypi.org", policy="over")[1]


def test_a_second_rule_for_the_same_host_gets_a_name_of_its_own(store: Database) -> None:
    """As after the first one ended."""
    ended = '  - name: approved-pypi-org-443\n    hosts: [pypi.org]\n    expires: "2020-01-01T00:00:00Z"\n'
    put_policy(store, CODER + ended)
    tell(store, Told("pypi.org", Reason.RULE_EXPIRED))
    assert look(store, "pypi.org").rule.name == "approved-pypi-org-443-2"


def test_over_the_api_what_was_previewed_is_what_is_applied(tmp_path: Path) -> None:
    """The preview's own words go back: its token, and the end that it had in mind."""
    with open_stage(tmp_path) as stage:
        put_policy(stage.database)
        tell(stage.database, Told("pypi.org"), Told("npm.test"))
        body = {"destination": "pypi.org", "owner": "ml", "reason": "builds", "expires": "30d"}
        seen = stage.post("/approvals/preview", body, "approver")
        assert seen["rule"]["hosts"] == ["pypi.org"]
        again = {**body, "expires": seen["asked_expires"], "token": seen["token"]}
        time.sleep(1.1)  # a span would end a second later now
        assert stage.refused("POST", "/approvals", {**again, "expires": "30d"}, "approver")[0] == 409
        done = stage.post("/approvals", again, "approver")
        assert stage.get("/policies/coder")["revision"] == done["revision"]
        assert stage.refused("POST", "/approvals", again, "approver")[0] == 409
        listed = stage.get("/approvals")["approvals"]
        assert [(one["rule"], one["by"], one["policy"]) for one in listed] == [
            ("approved-pypi-org-443", "a-approver", "coder")
        ]
        _both_previewed(stage)


def _both_previewed(stage: Stage) -> None:
    """Of two who looked at the same policy, the second looks again."""
    body = {"destination": "npm.test", "owner": "ml", "reason": "builds"}
    seen = stage.post("/approvals/preview", body, "approver")
    put_policy(stage.database, stage.get("/policies/coder")["text"] + "# touched\n")
    status, sentence = stage.refused(
        "POST", "/approvals", {**body, "expires": seen["asked_expires"], "token": seen["token"]}, "approver"
    )
    assert (status, "look at it again" in sentence) == (409, True)
