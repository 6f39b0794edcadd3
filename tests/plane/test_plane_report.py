"""The report: each number from facts whose answer is known, and what its page and its JSON make of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from exeat.core.policy_file import read_policy
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.policies.policies import Change, apply
from exeat.plane.report.facts import Approved, Facts, InForce, Period, Tally, facts_of
from exeat.plane.report.figures import Rate, Report, report_of
from exeat.plane.report.view import report_json, report_page
from exeat.plane.store.database import Database
from plane.plane_stage import CODER, DAY, HOUR, Told, open_stage, put_policy, tell
from plane.stores import KINDS, open_store

NOW = 500_000 * HOUR
WEEK = Period(NOW - 7 * DAY, NOW)
END = datetime.fromtimestamp(NOW // 10**9, UTC)


def tally(**words: Any) -> Tally:
    """A denied hello, unless words say otherwise."""
    known: dict[str, Any] = {
        "node": "web-1", "workload": "/agents/a", "policy": "coder", "rule": "", "target": "x.test", "port": 443,
        "protocol": 6, "hook": "hello", "verdict": Verdict.DROPPED, "reason": Reason.NAME_NOT_ALLOWED, "count": 1,
        "first_ns": NOW - HOUR, "last_ns": NOW - HOUR,
    }  # fmt: skip
    return Tally(**known | words)


def allowed(**words: Any) -> Tally:
    """A connect that was allowed."""
    return tally(hook="connect", verdict=Verdict.FORWARDED, reason=Reason.GRANTED, **words)


def report(*tallies: Tally, **words: Any) -> Report:
    """Of these."""
    known: dict[str, Any] = {
        "period": WEEK, "tallies": tallies, "new_targets": frozenset(), "approvals": (), "policies": (), "now_ns": NOW,
    }  # fmt: skip
    return report_of(Facts(**known | words))


def in_force(text: str, *before: str) -> InForce:
    """A policy, and which of its rules were there before."""
    return InForce(read_policy(text, "test").policy, frozenset(before))


@pytest.mark.parametrize(
    ("tallies", "rate"),
    [
        ((), Rate(0, 0)),
        ((allowed(count=1000),), Rate(1000, 0)),
        # Where a name decides, a connection is told by its hello alone.
        ((allowed(count=100), tally(count=5), tally(verdict=Verdict.FORWARDED, count=95)), Rate(200, 5)),
        ((allowed(count=98), tally(hook="connect", count=2)), Rate(100, 2)),
        # What was denied at its question never came to a connect; an answered question is no attempt.
        (
            (allowed(count=9), tally(hook="query"), tally(hook="query", verdict=Verdict.FORWARDED, count=50)),
            Rate(10, 1),
        ),
        ((allowed(count=9), tally(hook="socket", target="")), Rate(10, 1)),
        ((allowed(count=9), tally(hook="connect", verdict=Verdict.AUDIT)), Rate(10, 1)),
        ((allowed(count=9), tally(hook="send", verdict=Verdict.ERROR, reason=Reason.TABLE_FULL)), Rate(10, 1)),
        ((tally(count=3),), Rate(3, 3)),
    ],
)
def test_denials_are_told_of_1000_connections(tallies: tuple[Tally, ...], rate: Rate) -> None:
    """As the module says it."""
    assert report(*tallies).rate == rate
    assert rate.per_mille == (round(1000 * rate.denied / rate.attempts, 1) if rate.attempts else 0)


def test_denials_that_are_alike_are_one_row_the_most_frequent_first() -> None:
    """Over hours and nodes; another port, workload or reason is another row."""
    found = report(
        tally(count=2, first_ns=NOW - 3 * HOUR),
        tally(count=4, node="web-2", last_ns=NOW - 5),
        tally(count=5, port=8443),
        tally(workload="/agents/b"),
        tally(reason=Reason.ECH),
        allowed(count=99),
    )
    assert [(one.count, one.nodes, one.port) for one in found.top_denials][:2] == [(6, 2, 443), (5, 1, 8443)]
    first = found.top_denials[0]
    assert (first.first_ns, first.last_ns) == (NOW - 3 * HOUR, NOW - 5)
    assert found.denial_count == 4
    assert found.reasons == ((Reason.NAME_NOT_ALLOWED, 12), (Reason.ECH, 1))
    many = report(*(tally(target=f"{number}.test") for number in range(50)))
    assert (len(many.top_denials), many.denial_count) == (20, 50)


def test_new_destinations_are_those_that_no_verdict_knew(tmp_path: Path) -> None:
    """Allowed or denied, the first seen first."""
    found = report(
        tally(target="known.test"),
        tally(target="b.test", count=2),
        allowed(target="a.test", first_ns=NOW - 9 * HOUR, count=7),
        tally(target="a.test", workload="/agents/b"),
        new_targets=frozenset({"a.test", "b.test"}),
    )
    told = [(one.target, one.allowed, one.denied, one.workloads) for one in found.new_destinations]
    assert told == [("a.test", 7, 1, 2), ("b.test", 0, 2, 1)]


def test_from_the_first_denial_to_the_approval() -> None:
    """Mean, median and the longest; an approval without a known denial is not counted."""
    approvals = [Approved("coder", "r", "x.test", "alice", NOW - s * 10**9, NOW - 101 * 10**9) for s in (100, 90, 1)]
    nobody_knows = Approved("coder", "r", "x.test", "alice", NOW, 0)
    waits = report(approvals=(*approvals, nobody_knows)).waits
    assert (waits.approvals, waits.mean_s, waits.median_s, waits.longest_s) == (3, 112 / 3, 11, 100)
    assert report().waits.mean_s is None


TWO = CODER + "  - name: mirror\n    hosts: [pypi.org]\n  - name: young\n    hosts: [young.test]\n"


@pytest.mark.parametrize(
    ("told", "unused"),
    [
        ((), ["coder/model-api", "coder/mirror", "web/model-api"]),
        ((allowed(rule="mirror"),), ["coder/model-api", "web/model-api"]),
        ((tally(rule="mirror"),), ["coder/model-api", "coder/mirror", "web/model-api"]),  # denied: expired, say
        ((allowed(rule="mirror", policy="coder+web"),), ["coder/model-api", "web/model-api"]),
        ((allowed(rule="coder/model-api", policy="coder+web"),), ["coder/mirror", "web/model-api"]),
        ((allowed(rule="web/model-api", policy="coder+web"),), ["coder/model-api", "coder/mirror"]),
        ((allowed(rule="mirror", policy="elsewhere"),), ["coder/model-api", "coder/mirror", "web/model-api"]),
    ],
)
def test_rules_that_nobody_used(told: tuple[Tally, ...], unused: list[str]) -> None:
    """In a union a rule has its policy's name before its own, where two policies have one of that name."""
    policies = (in_force(TWO, "model-api", "mirror"), in_force(CODER.replace("coder", "web"), "model-api"))
    found = report(*told, policies=policies).unused_rules
    assert [f"{one.policy}/{one.rule}" for one in found] == unused


def test_what_ends_within_14_and_30_days() -> None:
    """The soonest first; not what has ended, nor a rule beside its policy that ends as soon."""
    rules = "".join(
        f'  - name: r{days}\n    hosts: [a.test]\n    expires: "{END + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"\n'
        for days in (-1, 29, 3, 31)
    )
    spec = f'spec:\n  expires: "{END + timedelta(days=14):%Y-%m-%dT%H:%M:%SZ}"\n'
    whole = CODER.replace("coder", "whole").replace("spec:\n", spec)
    found = report(policies=(in_force(CODER + rules), in_force(whole))).ending_rules
    assert [(one.policy, one.rule, one.within_days) for one in found] == [
        ("coder", "r3", 14), ("whole", None, 14), ("coder", "r29", 30),
    ]  # fmt: skip


def test_nodes_and_workloads_each_with_their_rate() -> None:
    """Who was denied most comes first."""
    found = report(
        allowed(count=9), tally(hook="connect"),
        allowed(node="web-2", workload="/agents/b", count=6), tally(hook="connect", node="web-2", count=4),
    )  # fmt: skip
    assert [(one.name, one.rate) for one in found.nodes] == [("web-2", Rate(10, 4)), ("web-1", Rate(10, 1))]
    assert [(one.name, one.rate) for one in found.workloads] == [
        ("/agents/a", Rate(14, 5)), ("/agents/b", Rate(6, 0)),
    ]  # fmt: skip


def test_a_span_is_whole_hours() -> None:
    """Those that it touches, one at least."""
    assert Period.around(NOW + 1, NOW + HOUR + 1) == Period(NOW, NOW + 2 * HOUR)
    assert Period.around(NOW, NOW + HOUR) == Period(NOW, NOW + HOUR)
    assert Period.around(NOW, NOW + 1) == Period(NOW, NOW + HOUR)


@pytest.fixture(name="database", params=KINDS)
def a_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Either kind."""
    with open_store(request.param, tmp_path) as database:
        yield database


def test_the_facts_come_from_the_store(database: Database) -> None:
    """Tallies of the span added up, what is new in it, rules as they were when it began."""
    put_policy(database, CODER, at_ns=NOW - 30 * DAY)
    put_policy(database, TWO, at_ns=NOW - DAY)
    tell(
        database,
        Told("old.test", at_ns=NOW - 8 * DAY),
        Told("old.test", at_ns=NOW - 2 * DAY, count=2),
        Told("old.test", at_ns=NOW - 3 * DAY, count=3),
        Told("new.test", at_ns=NOW - DAY),
        Told("later.test", at_ns=NOW),
        Told("", Reason.RAW_SOCKET, hook="socket", at_ns=NOW - DAY),
    )
    with database.writing() as tx:
        for at_ns in (NOW - 8 * DAY, NOW - DAY):
            tx.do(
                "INSERT INTO approvals (policy, rule, destination, workload, owner, reason, expires_ns, by_whom, "
                "at_ns, denied_ns, history_id) VALUES ('coder', 'r', 'x.test', '', 'o', 'r', 0, 'alice', ?, ?, 1)",
                *(at_ns, at_ns - HOUR),
            )
        apply(tx, [("x", CODER.replace("coder", "web"))], Change("bob", "", NOW - 20 * DAY))
    with database.reading() as tx:
        facts = facts_of(tx, WEEK, NOW)
    told = {one.target: (one.count, one.first_ns, one.last_ns) for one in facts.tallies}
    assert told["old.test"] == (5, NOW - 3 * DAY, NOW - 2 * DAY)
    assert set(told) == {"old.test", "new.test", ""}
    assert facts.new_targets == {"new.test"}
    assert [one.at_ns for one in facts.approvals] == [NOW - DAY]
    assert facts.records_since_ns == NOW - 8 * DAY
    before = {one.policy.name: (len(one.policy.rules), one.rules_before) for one in facts.policies}
    assert before == {"coder": (3, frozenset({"model-api"})), "web": (1, frozenset({"model-api"}))}


def test_words_of_a_newer_agent_are_passed_over(database: Database) -> None:
    """A reason that this plane does not know says nothing to anybody; what is beside it counts."""
    tell(database, Told("x.test", at_ns=NOW - DAY))
    with database.writing() as tx:
        tx.do("UPDATE tallies SET reason = 9999")
    tell(database, Told("x.test", at_ns=NOW - DAY, count=2))
    with database.reading() as tx:
        assert [one.count for one in facts_of(tx, WEEK, NOW).tallies] == [2]


EVIL = "<script>alert(1)</script>\u202e\x1b[31m"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "style", "onclick")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_names_in_it_are_only_text() -> None:
    """No link, no script, whatever a workload calls itself."""
    page = _Page()
    page.feed(
        report_page(
            report(
                tally(target=EVIL, workload=EVIL, node=EVIL, policy=EVIL, rule=EVIL),
                tally(target="plain.test", hook="query", port=53, protocol=17, count=12_345),
                new_targets=frozenset({EVIL}),
                policies=(in_force(CODER, "model-api"),),
            )
        )
    )
    assert (page.links, "script" in page.tags, "link" in page.tags) == ([], False, False)
    assert "<script>alert(1)</script>\\u202e\\x1b[31m" in page.text
    assert not {letter for letter in page.text if not letter.isprintable()} - {"\n"}
    for words in (
        "plain.test (dns)",
        "12,345",
        "model-api",
        "ml@example.com",
        "name_not_allowed",
        "no rule allows this",
    ):
        assert words in page.text, words


def test_an_empty_report_says_so() -> None:
    """In a page and in JSON."""
    page = _Page()
    page.feed(report_page(report()))
    for words in ("no verdicts yet", "Nothing was denied", "None within 30 days", "Every rule was used"):
        assert words in page.text, words
    found = json.loads(json.dumps(report_json(report())))
    assert (found["records_since"], found["attempts"], found["denied_per_1000"]) == (None, 0, 0)


def test_over_the_api(tmp_path: Path) -> None:
    """As JSON and as a page that runs nothing, wherever it is opened."""
    with open_stage(tmp_path) as stage:
        put_policy(stage.database)
        tell(stage.database, Told("x.test", count=3), Told(EVIL, at_ns=time.time_ns() - 8 * DAY))
        found = stage.get("/report?since=7d")
        assert (found["denied"], found["attempts"], found["denied_per_1000"]) == (3, 3, 1000)
        assert [one["target"] for one in found["new_destinations"]] == ["x.test"]
        assert stage.get("/report?since=9d")["denied"] == 4
        assert stage.get("/report?since=9d&until=2d")["denied"] == 1
        status, headers, page = stage.raw("GET", "/report?since=9d&format=html", role="viewer")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"<script>" not in page
