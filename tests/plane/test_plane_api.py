"""The plane's JSON API over a real port: who may ask what, what is refused and how, and what the calls do."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Match, Route

from exeat.model.verdicts import Reason
from exeat.plane.api import verdicts as api_verdicts
from exeat.plane.api.routes import routes
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.people import Role, TokenWish, add
from exeat.v1 import plane_pb2
from plane.plane_stage import CODER, Stage, Told, open_stage, put_policy, store, tell
from plane.stores import ack, come, nack

ROLES = [role.value for role in Role]
LINE = (
    '{"time":"%s","verdict":"DROPPED","reason":"name_not_allowed","hook":"hello","workload":"/agents/coder-1",'
    '"policy":"coder","rule":null,"process":{"pid":7,"comm":"curl","uid":0},"protocol":"tcp",'
    '"destination":{"address":"203.0.113.11","port":443},"source":null,"name":"%s","bytes":517,"detail":null,'
    '"judged_us":5.8,"count":1,"evidence":null}'
)


@pytest.fixture(name="stage", scope="module")
def a_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One for the file: its tests use names of their own."""
    with open_stage(tmp_path_factory.mktemp("plane")) as stage:
        yield stage


def line(name: str, seconds_ago: float = 0) -> str:
    """A denied hello."""
    ns = time.time_ns() - int(seconds_ago * 1e9)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9))
    return LINE % (f"{whole}.{ns % 10**9:09d}Z", name)


# Who: each call with the least role that may make it, and a body that the call itself refuses or finds nothing for.
CALLS = [
    ("GET", "/whoami", "viewer", None, 200),
    ("GET", "/nodes", "viewer", None, 200),
    ("GET", "/nodes/nobody", "viewer", None, 404),
    ("POST", "/nodes", "admin", {"name": "a b"}, 400),
    ("POST", "/nodes/nobody/retire", "admin", {}, 404),
    ("POST", "/nodes/nobody/activate", "admin", {}, 404),
    ("POST", "/nodes/nobody/labels", "admin", {"set": {"a": "b"}}, 404),
    ("GET", "/workloads", "viewer", None, 200),
    ("GET", "/policies", "viewer", None, 200),
    ("POST", "/policies", "admin", {"documents": [{"text": "nonsense"}]}, 422),
    ("POST", "/policies/diff", "viewer", {"documents": [{"text": "nonsense"}]}, 422),
    ("GET", "/policies/none", "viewer", None, 404),
    ("DELETE", "/policies/none", "admin", None, 404),
    ("GET", "/policies/none/history", "viewer", None, 404),
    ("GET", "/policies/none/diff?from=abcdef", "viewer", None, 404),
    ("POST", "/policies/none/rollback", "admin", {}, 404),
    ("GET", "/history", "viewer", None, 200),
    ("GET", "/rollouts", "viewer", None, 200),
    ("GET", "/rollouts/77", "viewer", None, 404),
    ("POST", "/rollouts/77/pause", "admin", {}, 404),
    ("POST", "/rollouts/77/resume", "admin", {}, 404),
    ("POST", "/rollouts/77/cancel", "admin", {}, 404),
    ("POST", "/rollouts/99999999999999999999999/finish", "admin", {}, 404),
    ("GET", "/verdicts", "viewer", None, 200),
    ("GET", "/denials", "viewer", None, 200),
    ("GET", "/approvals", "viewer", None, 200),
    ("POST", "/approvals/preview", "approver", {"destination": "x y", "owner": "o", "reason": "r"}, 400),
    ("POST", "/approvals", "approver", {"destination": "x.test", "owner": "o", "reason": "r", "token": "t"}, 404),
    ("GET", "/commands", "viewer", None, 200),
    ("GET", "/commands/0", "viewer", None, 404),
    ("POST", "/commands", "approver", {"node": "nobody", "workload": "w", "do": "mode", "mode": "open"}, 404),
    ("GET", "/report", "viewer", None, 200),
    ("GET", "/tokens", "admin", None, 200),
    ("POST", "/tokens", "admin", {"name": "A B", "role": "viewer"}, 400),
    ("DELETE", "/tokens/nobody", "admin", None, 404),
]


def test_the_table_of_calls_is_whole(stage: Stage) -> None:
    """No call without a role in here."""
    found = [route for route in routes(stage.plane) if isinstance(route, Route)]
    tried = set()
    for method, path, *_ in [*CALLS, ("GET", "/verdicts/follow")]:
        scope = {"type": "http", "method": method, "path": path.partition("?")[0], "root_path": "", "headers": []}
        tried.add(next(at for at, route in enumerate(found) if route.matches(scope)[0] is Match.FULL))
    missing = [route.path for at, route in enumerate(found) if at not in tried and "OPTIONS" not in route.methods]
    assert missing == []


@pytest.mark.parametrize(("method", "path", "least", "body", "status"), CALLS)
def test_a_call_is_for_its_role_and_those_above(
    stage: Stage, method: str, path: str, least: str, body: Any, status: int
) -> None:
    """Whoever has less is told so; nobody gets 401. Every refusal is a sentence."""
    for role in ROLES:
        found, answer = stage.ask(method, path, body, role)
        is_enough = ROLES.index(role) >= ROLES.index(least)
        assert found == (status if is_enough else 403), (role, answer)
        assert found == 200 or answer["error"]
        if not is_enough:
            assert f"needs {least}" in answer["error"]
    found, headers, content = stage.raw(method, path, body)
    assert (found, headers["www-authenticate"]) == (401, 'Bearer realm="exeat"')
    assert "say who asks" in json.loads(content)["error"]


def test_only_a_bearer_token_says_who_asks(stage: Stage) -> None:
    """Not a cookie, not basic authentication, not a token that has ended or was removed."""
    token = stage.tokens["admin"]
    with stage.database.writing() as tx:
        ended = add(tx, TokenWish("ended", Role.ADMIN, time.time_ns() + 3 * 10**8), time.time_ns())
        removed = add(tx, TokenWish("removed", Role.ADMIN), time.time_ns())
    for header in (f"Bearer {token}", f"bearer  {token} ", f"Bearer {ended}", f"Bearer {removed}"):
        assert stage.raw("GET", "/whoami", headers={"Authorization": header})[0] == 200, header
    stage.ask("DELETE", "/tokens/removed")
    time.sleep(0.35)
    for headers in (
        {"Cookie": f"token={token}; session={token}; __Host-session={token}"},
        {"Authorization": f"Basic {token}"},
        {"Authorization": token},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {token[:-1]}"},
        {"Authorization": f"Bearer {token}x"},
        {"Authorization": f"Bearer {ended}"},
        {"Authorization": f"Bearer {removed}"},
        {"X-Forwarded-User": "root", "X-Auth-Request-Groups": "admin"},
    ):
        assert stage.raw("GET", "/whoami", headers=headers)[0] == 401, headers


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/nowhere", None, 404, "there is no call"),
        ("PUT", "/nodes", {}, 405, "is not for"),
        ("DELETE", "/policies", None, 405, "is not for"),
        ("POST", "/nodes", b"{", 400, "no JSON"),
        ("POST", "/nodes", b"[]", 400, "no JSON object"),
        ("POST", "/nodes", b"\xff\xfe", 400, "no JSON"),
        ("POST", "/nodes", b"[" * 50_000, 400, "no JSON"),
        ("POST", "/nodes", {"name": "x" * 70_000}, 413, "longer than"),
        ("POST", "/nodes", {"nmae": "x"}, 400, "has no `name`"),
        ("POST", "/nodes", {"name": "fine", "colour": "red"}, 400, "`colour` is no field"),
        ("POST", "/nodes", {"name": ["a"]}, 400, "is no text"),
        ("POST", "/nodes", {"name": "fine", "labels": {"a": 1}}, 400, "no mapping of labels"),
        ("GET", "/policies?limit=1", None, 400, "`limit` is no field"),
        ("GET", "/history?limit=0", None, 400, "from 1 to"),
        ("GET", "/history?limit=1e3", None, 400, "whole number"),
        ("GET", "/verdicts?to=a..b", None, 400, "no destination"),
        ("GET", "/verdicts?verdict=MAYBE", None, 400, "there are FORWARDED"),
        ("GET", "/denials?since=yesterday", None, 400, "no span of time"),
        ("GET", "/report?since=1d&until=2d", None, 400, "before it begins"),
        ("GET", "/report?since=5000d", None, 400, "400 days"),
        ("GET", "/report?format=pdf", None, 400, "neither json nor html"),
        ("POST", "/tokens", {"name": "x", "role": "king"}, 400, "none of viewer"),
        ("POST", "/commands", {"node": "n", "workload": "w", "do": "reboot"}, 400, "none of mode"),
        ("POST", "/commands", {"node": "n", "workload": "w", "do": "mode", "mode": "off"}, 400, "none of enforce"),
        ("POST", "/policies", {"documents": []}, 400, "no list of objects"),
        (
            "POST",
            "/policies",
            {"documents": [{"text": CODER}], "rollout": {"stages": [50, 10, 100]}},
            400,
            "more than the one",
        ),
        (
            "POST",
            "/policies",
            {"documents": [{"text": CODER}], "rollout": {"stage": [100]}},
            400,
            "`stage` is no field",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    stage: Stage, method: str, path: str, body: Any, status: int, words: str
) -> None:
    """With a status that says whose fault it is, and a sentence that says what to do."""
    found, sentence = stage.refused(method, path, body)
    assert found == status, sentence
    assert words in sentence
    assert "fine" not in [node["name"] for node in stage.get("/nodes")["nodes"]]


def test_a_body_must_say_that_it_is_json(stage: Stage) -> None:
    """A form of some page cannot."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        status, _, content = stage.raw("POST", "/nodes", b'{"name": "x"}', "admin", {"Content-Type": kind})
        assert (status, b"send JSON" in content) == (400, True), kind


def test_a_node_is_added_labelled_retired_and_let_in_again(stage: Stage) -> None:
    """What it says itself, and what the plane says in its place."""
    added = stage.post("/nodes", {"name": "n-1", "labels": {"role": "sandbox"}})
    assert (added["state"], added["labels"], added["first_seen"]) == ("never", {"role": "sandbox"}, None)
    assert "listed already" in stage.refused("POST", "/nodes", {"name": "n-1"})[1]
    with stage.database.writing() as tx:
        come(tx, "n-1", {"role": "build", "zone": "a"}, time.time_ns())
        ack(tx, "n-1", (("coder", "a" * 64),), time.time_ns())
    one = stage.get("/nodes/n-1")
    assert (one["state"], one["labels"]) == ("current", {"role": "sandbox", "zone": "a"})
    assert [(held["name"], held["revision"]) for held in one["holdings"]] == [("coder", "a" * 64)]
    changed = stage.post("/nodes/n-1/labels", {"set": {"tier": "1"}, "remove": ["role"]})
    assert (changed["labels"], changed["pinned"]) == ({"role": "build", "zone": "a", "tier": "1"}, {"tier": "1"})
    assert stage.refused("POST", "/nodes/n-1/labels", {"remove": ["zone"]})[0] == 404
    assert stage.post("/nodes/n-1/retire", {})["state"] == "retired"
    assert stage.post("/nodes/n-1/activate", {})["state"] == "current"
    with stage.database.writing() as tx:
        nack(tx, "n-1", "coder:7: no such thing", time.time_ns())
    one = next(node for node in stage.get("/nodes")["nodes"] if node["name"] == "n-1")
    assert (one["state"], one["fault"]) == ("refused", "coder:7: no such thing")


def test_workloads_are_found_by_node_policy_mode_and_a_part_of_their_name(stage: Stage) -> None:
    """Each filter alone, and with one that does not fit."""
    state = plane_pb2.WorkloadState(name="w-7", cgroup="/agents/w-7", policies=["one"], mode=4, source="subject")
    with stage.database.writing() as tx:
        come(tx, "w-node")
        workloads.put(tx, "w-node", plane_pb2.WorkloadNews(is_all=True, workloads=[state]))
    for query in ("node=w-node", "policy=one", "mode=quarantine", "workload=/w-", "workload=w-7&node=w-node"):
        found = stage.get(f"/workloads?{query}")["workloads"]
        assert [(one["name"], one["mode"]) for one in found] == [("w-7", "quarantine")], query
    for query in ("node=other", "policy=on", "mode=open", "workload=w-8", "workload=w-7&node=other"):
        assert stage.get(f"/workloads?{query}")["workloads"] == [], query


def test_policies_are_applied_shown_rolled_back_and_removed(stage: Stage) -> None:
    """With their history: who, what and why."""
    text = CODER.replace("coder", "p-one")
    wider = text.replace("[api.example.com]", "[api.example.com, pypi.org]")
    dry = stage.post("/policies", {"documents": [{"where": "one.yaml", "text": text}], "dry_run": True})["policies"][0]
    assert (dry["is_changed"], dry["before"]) == (True, "")
    assert stage.refused("GET", "/policies/p-one")[0] == 404
    one = stage.post("/policies", {"documents": [{"text": text}], "reason": "first"})["policies"][0]
    assert one["revision"] == dry["revision"]
    assert [change["what"] for change in one["changes"]] == ["opens", "words"] or one["changes"][0]["what"] == "opens"
    two = stage.post("/policies", {"documents": [{"text": wider}], "reason": "mirror"})["policies"][0]
    assert any("opens pypi.org:443" in change["sentence"] for change in two["changes"])
    assert "+    hosts: [api.example.com, pypi.org]  # the model" in two["diff"]
    again = stage.post("/policies", {"documents": [{"text": wider}]})["policies"][0]
    assert (again["is_changed"], again["changes"]) == (False, [])
    shown = stage.get("/policies/p-one")
    assert (shown["text"], shown["is_current"]) == (wider, True)
    old = stage.get(f"/policies/p-one?revision={one['revision'][:8]}")
    assert (old["text"], old["is_current"]) == (text, False)
    between = stage.get(f"/policies/p-one/diff?from={one['revision'][:8]}")
    assert any("opens pypi.org" in change["sentence"] for change in between["changes"])
    listed = next(policy for policy in stage.get("/policies")["policies"] if policy["name"] == "p-one")
    assert (listed["owner"], listed["rules"], listed["source"]) == ("ml@example.com", 1, "store")
    back = stage.post("/policies/p-one/rollback", {"reason": "it was too wide"})
    assert back["revision"] == one["revision"]
    gone = stage.ask("DELETE", "/policies/p-one?reason=unused")[1]
    assert gone["revision"] == ""
    history = stage.get("/policies/p-one/history")["history"]
    assert [(entry["action"], entry["by"], entry["reason"]) for entry in history] == [
        ("remove", "a-admin", "unused"),
        ("rollback", "a-admin", "it was too wide"),
        ("apply", "a-admin", "mirror"),
        ("apply", "a-admin", "first"),
    ]


def test_one_bad_document_keeps_all_of_them_out(stage: Stage) -> None:
    """Every problem of every document is told at once."""
    good, bad = CODER.replace("coder", "p-good"), CODER.replace("[api.example.com]", "[10.0.0.1]")
    body = {"documents": [{"where": "good.yaml", "text": good}, {"where": "bad.yaml", "text": bad}, {"text": "x"}]}
    status, found = stage.ask("POST", "/policies", body)
    assert status == 422
    assert [problem.partition(":")[0] for problem in found["problems"]] == ["bad.yaml", "the policy"]
    assert stage.refused("GET", "/policies/p-good")[0] == 404
    assert stage.ask("POST", "/policies", {"documents": [{"where": "good.yaml", "text": good}]})[0] == 200


def test_a_roll_out_is_begun_paused_resumed_and_cancelled(stage: Stage) -> None:
    """And says so, each time."""
    text = CODER.replace("coder", "p-staged")
    put_policy(stage.database, text)
    wider = text.replace("api.example.com", "api2.example.com")
    body = {"documents": [{"text": wider}], "rollout": {"stages": [10, 100], "soak_s": 60, "max_per_mille": 5}}
    number = stage.post("/policies", body)["policies"][0]["rollout"]
    one = stage.get(f"/rollouts/{number}")
    assert (one["state"], one["percent"], one["stages"], one["soak_s"]) == ("running", 10, [10, 100], 60)
    assert number in [rollout["id"] for rollout in stage.get("/rollouts")["rollouts"]]
    assert stage.post(f"/rollouts/{number}/pause", {"reason": "lunch"})["why"] == "paused by a-admin: lunch"
    assert stage.refused("POST", f"/rollouts/{number}/pause", {})[0] == 409
    assert stage.post(f"/rollouts/{number}/resume", {})["state"] == "running"
    assert stage.post(f"/rollouts/{number}/cancel", {})["state"] == "cancelled"
    assert stage.get("/policies/p-staged")["text"] == text
    assert number not in [rollout["id"] for rollout in stage.get("/rollouts")["rollouts"]]
    assert number in [rollout["id"] for rollout in stage.get("/rollouts?all=true")["rollouts"]]


def test_problems_of_the_directory_are_listed_with_the_policies(stage: Stage) -> None:
    """Where whoever wrote them looks."""
    assert stage.get("/policies")["directory_problems"] == []
    stage.problems.append("coder.yaml:7: no such field")
    assert stage.get("/policies")["directory_problems"] == ["coder.yaml:7: no such field"]
    stage.problems.clear()


def test_verdicts_come_in_pages_the_newest_first(stage: Stage) -> None:
    """Each with its node; filtered as on a node."""
    with stage.database.writing() as tx:
        store(tx, [line(f"page-{number}.test", 60 - number) for number in range(7)], "v-node")
        store(tx, [line("old.test", 3000)], "v-node")
    seen: list[str] = []
    before = ""
    while True:
        page = stage.get(f"/verdicts?node=v-node&limit=3{before}")
        seen += [one["name"] for one in page["verdicts"]]
        if page["before"] is None:
            break
        before = f"&before={page['before']}"
    assert seen == [f"page-{number}.test" for number in reversed(range(7))]
    one = stage.get("/verdicts?to=page-3.test&since=1h")["verdicts"][0]
    assert (one["node"], one["reason"], one["destination"]) == (
        "v-node",
        "name_not_allowed",
        {"address": "203.0.113.11", "port": 443},
    )
    assert [one["name"] for one in stage.get("/verdicts?to=old.test&since=1h")["verdicts"]] == ["old.test"]
    assert stage.get("/verdicts?to=page-3.test&verdict=FORWARDED,AUDIT")["verdicts"] == []


def test_who_follows_gets_the_past_once_then_what_comes(stage: Stage) -> None:
    """One object a line; nothing twice, and nothing that was not asked for."""
    with stage.database.writing() as tx:
        store(tx, [line("f-1.test", 2), line("f-2.test", 1)], "f-node")
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=15)
    headers = {"Authorization": f"Bearer {stage.tokens['viewer']}"}
    connection.request("GET", "/api/v1/verdicts/follow?node=f-node&since=5m", headers=headers)
    response = connection.getresponse()
    assert response.status == 200

    def tell_more() -> None:
        time.sleep(0.5)
        with stage.database.writing() as tx:
            store(tx, [line("other.test")], "g-node")
            store(tx, [line("f-3.test")], "f-node")

    teller = threading.Thread(target=tell_more)
    teller.start()
    names: list[str] = []
    while len(names) < 3:
        if text := response.readline().strip():
            names.append(json.loads(text)["name"])
    teller.join()
    connection.close()
    assert names == ["f-1.test", "f-2.test", "f-3.test"]


def test_who_follows_with_a_token_that_is_removed_hears_no_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream lasts for days; its reader's right to it may not. Another one's goes on."""
    monkeypatch.setattr(api_verdicts, "_ASK_AGAIN_S", 0.0)
    made = stage.post("/tokens", {"name": "follower", "role": "viewer"})["token"]
    readers = []
    for token in (made, stage.tokens["viewer"]):
        connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=15)
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/api/v1/verdicts/follow?node=r-node", headers=headers)
        readers.append((connection, connection.getresponse()))
    assert [response.readline() for _, response in readers] == [b"\n", b"\n"]
    assert stage.ask("DELETE", "/tokens/follower")[0] == 200
    for name in ("r-1.test", "r-2.test"):
        with stage.database.writing() as tx:
            store(tx, [line(name)], "r-node")
        time.sleep(0.3)
    ended, going = (response for _, response in readers)
    assert b"r-2.test" not in ended.read()
    assert [json.loads(going.readline())["name"] for _ in range(2)] == ["r-1.test", "r-2.test"]
    for connection, _ in readers:
        connection.close()


def test_denials_are_grouped_and_say_whether_a_rule_would_help(stage: Stage) -> None:
    """Over nodes."""
    tell(
        stage.database,
        Told("d.test", node="d-1", count=2, policy="dp"),
        Told("d.test", node="d-2", count=3, policy="dp"),
        Told("e.test", Reason.ECH, node="d-2", policy="dp"),
    )
    found = stage.get("/denials?policy=dp")["denials"]
    told = {one["target"]: (one["count"], one["nodes"], one["reason"], one["can_approve"]) for one in found}
    assert told == {
        "d.test": (5, ["d-1", "d-2"], "name_not_allowed", True),
        "e.test": (1, ["d-2"], "ech", False),
    }


def test_a_command_is_answered_with_what_the_node_made_of_it(stage: Stage) -> None:
    """The node here is a thread that looks into the store as a session does."""
    with stage.database.writing() as tx:
        nodes.add(tx, "c-node")

    def answer() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with stage.database.writing() as tx:
                waiting = commands.waiting(tx, "c-node", time.time_ns())
                for one in waiting:
                    refusal = "" if one.set_mode.workload == "w" else "there is no such workload"
                    result = plane_pb2.CommandResult(id=one.id, refusal=refusal, cut=2)
                    if not refusal:
                        result.workload.CopyFrom(plane_pb2.WorkloadState(name="w", mode=4))
                    commands.ended(tx, "c-node", result, time.time_ns())
            if waiting:
                return
            time.sleep(0.02)

    for workload, state, refusal in (("w", "done", ""), ("v", "refused", "there is no such workload")):
        node = threading.Thread(target=answer)
        node.start()
        body = {"node": "c-node", "workload": workload, "do": "mode", "mode": "quarantine", "reason": "it scans"}
        found = stage.post("/commands", body, "approver")
        node.join()
        assert (found["state"], found["refusal"], found["by"]) == (state, refusal, "a-approver")
        assert found["request"] == {"workload": workload, "mode": "MODE_QUARANTINE", "reason": "it scans"}
        assert stage.get(f"/commands/{found['id']}") == found
    assert (found["cut"], found["workload"]) == (2, None)


def test_a_command_whose_node_is_away_waits_no_longer_than_was_asked(stage: Stage) -> None:
    """And can be looked up later."""
    with stage.database.writing() as tx:
        nodes.add(tx, "c-away")
    body = {"node": "c-away", "workload": "w", "do": "allow", "destination": "a.test", "for_s": 60, "reason": "r"}
    before = time.monotonic()
    found = stage.post("/commands", {**body, "wait_s": 1}, "approver")
    assert found["state"] == "waiting"
    assert 0.9 < time.monotonic() - before < 5
    assert stage.get("/commands?node=c-away")["commands"][0]["id"] == found["id"]


def test_a_token_is_shown_once_and_ends_when_it_is_removed(stage: Stage) -> None:
    """The list never has it."""
    made = stage.post("/tokens", {"name": "t-1", "role": "viewer", "expires": "1d"})
    header = {"Authorization": f"Bearer {made['token']}"}
    assert stage.raw("GET", "/whoami", headers=header)[0] == 200
    listed = next(one for one in stage.get("/tokens", "admin")["tokens"] if one["name"] == "t-1")
    assert (listed["role"], listed["is_expired"]) == ("viewer", False)
    assert listed["used"]
    assert made["token"] not in json.dumps(stage.get("/tokens", "admin"))
    assert stage.refused("POST", "/tokens", {"name": "t-1", "role": "viewer"})[0] == 409
    assert stage.ask("DELETE", "/tokens/t-1")[0] == 200
    assert stage.raw("GET", "/whoami", headers=header)[0] == 401


def test_nobody_keeps_what_the_api_says(stage: Stage) -> None:
    """No cache, no guessing of types."""
    for path in ("/whoami", "/nowhere", "/report?format=html"):
        _, headers, _ = stage.raw("GET", path, role="viewer")
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff"), path


def test_a_store_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    """503, and the sentence of the store."""
    with open_stage(tmp_path) as stage:
        assert stage.ask("GET", "/nodes")[0] == 200
        with stage.database.writing() as tx:
            tx.do("ALTER TABLE nodes RENAME TO gone")
        status, sentence = stage.refused("GET", "/nodes")
        assert status == 503
        assert "nodes" in sentence
