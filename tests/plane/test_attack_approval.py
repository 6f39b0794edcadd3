"""Denials that a hostile node makes up, and approvals by somebody who wants more than one rule: what comes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from exeat.core.policy_file import read_policy
from plane.plane_stage import Stage, Told, open_stage, put_policy, tell

FORGED = (
    "*", "*.com", "**.com", "**.evil.test", "0.0.0.0/0", "::/0", "10.0.0.0/8", 'evil.test"]\n  - name: x',
    "evil.test # x", "evil.test,other.test", "evil..test", "-evil.test", "a" * 300, "evil.test\x1b[2J",
    "\u202etset.live",
)  # fmt: skip
EXTRA = "  - name: everything\n    cidrs: [0.0.0.0/0]\n    protocol: tcp\n    ports: [443]"


@pytest.fixture(name="stage", scope="module")
def a_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A policy, what a hostile node says was denied by it, and what an honest one says."""
    with open_stage(tmp_path_factory.mktemp("plane")) as stage:
        put_policy(stage.database)
        tell(stage.database, *[Told(name, node="bad") for name in FORGED], Told("good.test"))
        yield stage


@pytest.mark.parametrize("name", FORGED)
def test_a_name_that_is_none_becomes_no_rule(stage: Stage, name: str) -> None:
    """Neither as it is nor where somebody asks for it as a wildcard beside a good name."""
    ask = {"owner": "o", "reason": "r"}
    status, sentence = stage.refused("POST", "/approvals/preview", {"destination": name, **ask}, "approver")
    assert status in (400, 404, 409), sentence
    wild = {"destination": "good.test", "wildcard": name, **ask}
    assert stage.refused("POST", "/approvals/preview", wild, "approver")[0] in (400, 409)
    found = stage.post("/approvals/preview", {"destination": "good.test", **ask}, "approver")
    assert found["rule"]["hosts"] == ["good.test"]


@pytest.mark.parametrize("more", ["/udp", ":53/udp", "/icmp", ":80", ":22/tcp"])
def test_a_rule_is_for_the_port_and_transport_that_were_denied(stage: Stage, more: str) -> None:
    """Over UDP anything could go where one TLS connection was denied. TCP in place of TLS is an approver's to say."""
    ask = {"owner": "o", "reason": "r"}
    other = {"destination": f"good.test{more}", **ask}
    assert stage.refused("POST", "/approvals/preview", other, "approver")[0] in (400, 404)
    for same, protocol in (("", "tls"), (":443", "tls"), ("/tcp", "tcp")):
        found = stage.post("/approvals/preview", {"destination": f"good.test{same}", **ask}, "approver")
        assert (found["rule"]["protocol"], found["rule"]["ports"]) == (protocol, [443])


@pytest.mark.parametrize("field", ["owner", "reason"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\0", "\x0b", "\x0c"])
def test_a_reason_is_a_comment_whatever_stands_in_it(stage: Stage, field: str, end: str) -> None:
    """It goes into the policy's text: a line of its own there would be a rule of the approver's own."""
    ask = {"destination": "good.test", "owner": "o", "reason": "r"} | {field: f"x{end}" + EXTRA.replace("\n", end)}
    found = stage.post("/approvals/preview", ask, "approver")
    assert [change["what"] for change in found["changes"]] == ["opens"]
    added = [line for line in found["diff"] if line.startswith("+ ")]
    assert sum("- name:" in line and not line.lstrip("+ ").startswith("#") for line in added) == 1
    before = stage.get("/policies/coder")["text"]
    text = before + "".join(f"{line[1:]}\n" for line in added)
    assert [rule.name for rule in read_policy(text, "coder").policy.rules] == ["model-api", found["rule"]["name"]]


def test_what_is_applied_is_what_the_preview_showed_and_by_whom(tmp_path: Path) -> None:
    """A preview's token is for its rule alone, and an approver cannot be somebody else by a field."""
    with open_stage(tmp_path) as stage:
        put_policy(stage.database)
        tell(stage.database, Told("good.test"), Told("evil.test", node="bad"))
        ask = {"destination": "good.test", "owner": "o", "reason": "r"}
        seen = stage.post("/approvals/preview", ask, "approver")
        sent = {**ask, "token": seen["token"], "expires": seen["asked_expires"]}
        for other in ({"destination": "evil.test"}, {"expires": "400d"}, {"destination": "good.test:80"}):
            assert stage.ask("POST", "/approvals", sent | other, "approver")[0] in (400, 404, 409)
        assert stage.refused("POST", "/approvals", {**sent, "by": "root"}, "approver")[0] == 400
        assert stage.refused("POST", "/approvals", sent, "viewer")[0] == 403
        assert len(read_policy(stage.get("/policies/coder")["text"], "coder").policy.rules) == 1
        done = stage.post("/approvals", sent, "approver")
        [entry] = [one for one in stage.get("/policies/coder/history")["history"] if one["action"] == "approve"]
        assert (entry["by"], entry["revision"]) == ("a-approver", done["revision"])
