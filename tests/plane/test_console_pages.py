"""The console's pages over a real door: what each shows, to whom, and that what is shown is never more than text."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from exeat.plane import people
from exeat.plane.nodes import commands, nodes, workloads
from exeat.plane.nodes.nodes import Beat
from exeat.plane.parts import Plane
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.policies import Change, Plan
from exeat.plane.web.headers import CSP
from exeat.plane.web.pages import PAGES
from exeat.v1 import plane_pb2
from plane.console_fixtures import address, plane, tokens
from plane.console_stage import (
    NASTY,
    Tokens,
    denial,
    join,
    open_plane,
    report,
    serving,
    tell,
    workload,
)
from plane.console_visitor import SAME_ORIGIN, Visitor, visiting, words

__all__ = ["address", "plane", "tokens"]

APPROVE = "/denials/approve?target=huggingface.example&workload=/agents.slice/coder-12.scope&policies=coding-agent"
LOOKS = (
    "/nodes", "/nodes?state=refused&sort=-name&q=sandbox", "/nodes/sandbox-03", "/workloads", "/workloads?mode=open",
    "/workloads/one?node=sandbox-01&workload=coder-9", "/verdicts", "/verdicts?verdict=denied&to=.example",
    "/denials", "/denials?since=7d&sort=-count", "/policies", "/policies/coding-agent", "/rollouts", "/report",
)  # fmt: skip


@pytest.fixture
def vera(address: str, tokens: Tokens) -> Iterator[Visitor]:
    """A viewer."""
    with visiting(address, tokens.viewer) as visitor:
        yield visitor


@pytest.fixture
def ada(address: str, tokens: Tokens) -> Iterator[Visitor]:
    """An approver."""
    with visiting(address, tokens.approver) as visitor:
        yield visitor


@pytest.fixture
def root(address: str, tokens: Tokens) -> Iterator[Visitor]:
    """An admin."""
    with visiting(address, tokens.admin) as visitor:
        yield visitor


def revision_of(plane: Plane, name: str) -> str:
    """That shall hold."""
    with plane.database.reading() as tx:
        return next(one.revision for one in policies.current(tx) if one.name == name)


def rollout_of(plane: Plane) -> rollouts.Rollout:
    """The only one."""
    with plane.database.reading() as tx:
        return rollouts.rollouts(tx)[0]


def test_every_page_is_there_for_a_viewer_and_has_no_script_or_style_of_its_own(vera: Visitor) -> None:
    """And one heading, one main part, a language, a title, a label for each field."""
    for path in LOOKS:
        answer = vera.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == CSP
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        page = answer.text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|hx-on|hx-vals=.js", page), path
        assert all("src=" in script for script in re.findall(r"<script[^>]*>", page)), path
        assert not re.findall(r'(?:src|href|action)="(?!/|#)', page), path
        assert page.count("<h1") == page.count("<main") == page.count('<html lang="en"') == 1, path
        fields = set(re.findall(r'<(?:input|select)(?![^>]*type="hidden")[^>]*\bid="([^"]+)"', page))
        assert fields == set(re.findall(r'<label[^>]* for="([^"]+)"', page)), path
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids)), path


def test_every_answer_has_the_policy_of_what_it_may_load(address: str, tokens: Tokens) -> None:
    """Errors, redirections, files, the API, and what is not there too."""
    with visiting(address) as visitor:
        for path in ("/", "/nodes", "/sign-in", "/nowhere", "/static/x/console.css", "/healthz"):
            assert visitor.get(path).headers["content-security-policy"] == CSP, path
    with visiting(address, tokens.viewer) as visitor:
        for path in ("/nodes/nobody", "/rollouts/9/pause", "/verdicts?to=%20%20::::"):
            answer = visitor.get(path)
            assert answer.status_code in (400, 404, 405), path
            assert answer.headers["content-security-policy"] == CSP, path


def test_who_may_only_look_sees_no_button_and_changes_nothing(plane: Plane, vera: Visitor, root: Visitor) -> None:
    """Each form, posted all the same with a right token; the twin who may is let through to its own errors."""
    before = {name: revision_of(plane, name) for name in ("coding-agent", "build-farm")}
    for path in LOOKS:
        page = vera.page(path)
        assert set(re.findall(r'<form method="post" action="([^"]+)"', page)) == {"/theme", "/sign-out"}, path
        assert "Approve…" not in page, path
    forms = [page.path for page in PAGES if page.is_change]
    assert len(forms) >= 7
    root.page("/nodes")
    for form in forms:
        path = re.sub(r"\{number:int\}", "99", form).replace("{name}", "nobody").replace("{step}", "pause")
        refused = vera.post(path)
        assert refused.status_code == 403, path
        assert "vera is viewer, and this needs" in words(refused.text), path
        assert root.post(path).status_code in (400, 404), path
    for path in (APPROVE, "/policies/coding-agent/rollback?to=abcdef"):
        assert vera.get(path).status_code == 403
    assert before == {name: revision_of(plane, name) for name in before}
    with plane.database.reading() as tx:
        assert len(commands.latest(tx)) == 1  # the one that the stage made


def test_an_approver_is_no_admin(plane: Plane, ada: Visitor) -> None:
    """Approves and quarantines; takes nothing back and retires nobody."""
    assert "Approve…" in ada.page("/denials")
    assert ada.get(APPROVE).status_code == 200
    assert "Pause" not in ada.page("/rollouts")
    assert "Retire" not in ada.page("/nodes/sandbox-01")
    assert ada.post("/rollouts/1/pause").status_code == 403
    assert ada.post("/nodes/sandbox-01/retire").status_code == 403
    assert rollout_of(plane).state is rollouts.State.RUNNING


def test_a_form_counts_with_its_sessions_token_and_from_our_own_pages_only(
    plane: Plane, root: Visitor, ada: Visitor
) -> None:
    """Without it nothing is changed; with it, it is."""
    root.page("/rollouts")
    ada.page("/rollouts")
    step, client = "/rollouts/1/pause", root.client
    forged = [
        ({"csrf": root.csrf}, {"sec-fetch-site": "cross-site"}),
        ({"csrf": root.csrf}, {"sec-fetch-site": "same-site"}),
        ({"csrf": root.csrf}, {"origin": "https://evil.test"}),
        ({"csrf": root.csrf}, {"origin": "null"}),
        ({"csrf": root.csrf}, {}),
        ({"csrf": ada.csrf}, SAME_ORIGIN),
        ({"csrf": root.csrf[:-1]}, SAME_ORIGIN),
        ({"csrf": ""}, SAME_ORIGIN),
        ({"other": root.csrf}, SAME_ORIGIN),
    ]
    for fields, headers in forged:
        assert client.post(step, data=fields, headers=headers).status_code == 403, (fields, headers)
    for wrong in ("application/json", "text/plain"):
        headers = SAME_ORIGIN | {"content-type": wrong}
        assert client.post(step, content=f"csrf={root.csrf}", headers=headers).status_code == 400
    assert client.get(step).status_code == 405
    assert rollout_of(plane).state is rollouts.State.RUNNING
    assert client.post(step, data={"csrf": root.csrf}, headers=SAME_ORIGIN).status_code == 303
    assert rollout_of(plane).state is rollouts.State.STOPPED


def test_no_name_is_more_than_a_name(plane: Plane, ada: Visitor) -> None:
    """Markup, terminal codes and what turns the direction of writing: shown, and nothing else, wherever they stand."""
    join(plane.database, "evil-node", NASTY, {NASTY: "f" * 64}, plane.now_ns())
    report(plane.database, "evil-node", [denial(workload=NASTY, policy=NASTY, name=NASTY, rule=NASTY, evidence=NASTY)])
    state = workload(NASTY, NASTY, NASTY)
    state.labels[NASTY] = NASTY
    tell(plane.database, "evil-node", state)
    with plane.database.writing() as tx:
        nodes.beat(tx, [Beat("evil-node", plane.now_ns(), complaints=(NASTY,))])
    one = f"/workloads/one?node=evil-node&workload={_quoted(NASTY)}"
    approve = f"/denials/approve?target={_quoted(NASTY)}&workload={_quoted(NASTY)}&policies={_quoted(NASTY)}"
    searches = [f"{path}?{field}={_quoted(NASTY)}" for path, field in (("/nodes", "q"), ("/denials", "workload"))]
    for path in (
        "/nodes",
        "/nodes/evil-node",
        "/workloads",
        one,
        "/verdicts",
        "/denials",
        "/report",
        approve,
        *searches,
    ):
        page = ada.page(path)
        assert "<script>alert" not in page, path
        assert not {letter for letter in page if not letter.isprintable()} - {"\n", "\N{NARROW NO-BREAK SPACE}"}, path
        assert "&lt;script&gt;" in page, path
        assert "\\u202e" in page, path
    refused = ada.get(f"/policies/{_quoted(NASTY)}")
    assert refused.status_code == 404
    assert "<script>alert" not in refused.text


def test_nodes_are_sorted_filtered_and_counted_by_the_address(vera: Visitor) -> None:
    """So that what one looks at can be shown to another."""
    page = words(vera.page("/nodes"))
    assert re.search(r"6 all 3 current 1 refused 1 away 1 never", page)
    assert "`nodes` is nothing that `subject` has" in page
    assert "+41.3 s" in page
    names = re.compile(r'href="/nodes/([a-z0-9-]+)"')
    assert names.findall(vera.page("/nodes"))[0] == "sandbox-03"  # who refuses comes first
    assert names.findall(vera.page("/nodes?sort=name"))[0] == "build-01"
    assert names.findall(vera.page("/nodes?sort=-name"))[0] == "sandbox-03"
    assert names.findall(vera.page("/nodes?state=away")) == ["build-02"]
    assert names.findall(vera.page("/nodes?q=role%3Dbuild")) == ["build-02", "build-01"]
    assert 'aria-sort="descending"' in vera.page("/nodes?sort=-name")
    assert "None fits this filter" in vera.page("/nodes?q=nowhere")


def test_a_node_shows_what_it_holds_and_what_became_of_commands(vera: Visitor) -> None:
    """Also where the plane's revision is another one by now."""
    page = words(vera.page("/nodes/sandbox-03"))
    assert "It refuses what it was sent" in page
    assert re.search(r"coding-agent [0-9a-f]{12} the plane's is [0-9a-f]{12}", page)
    page = words(vera.page("/nodes/sandbox-01"))
    assert "mode quarantine for coder-9 INC-2041: odd uploads done 3 connections cut ada" in page
    assert vera.get("/nodes/nobody").status_code == 404


def test_denials_are_grouped_by_workload_and_destination(ada: Visitor) -> None:
    """And say whether a rule can open them."""
    page = words(ada.page("/denials"))
    assert "telemetry.vendor. example dns /agents.slice/ coder- 7.scope on sandbox-01".replace(" ", "") in page.replace(
        " ", ""
    )
    assert re.search(r"198\. ?51\. ?100\. ?9 443/tcp .* ech 6 .* no rule can", page)
    assert "would be denied" in page
    filtered = ada.page("/denials?to=huggingface.example")
    assert "huggingface" in words(filtered)
    assert "telemetry" not in words(filtered)
    assert ada.get("/denials?to=:::bad").status_code == 400
    assert ada.get("/denials?since=soon").status_code == 400


def test_a_denial_becomes_a_rule_after_a_preview(plane: Plane, ada: Visitor) -> None:
    """Rule and difference first; then owner, reason and end; then a new revision, with who and why in its history."""
    before = revision_of(plane, "coding-agent")
    page = ada.page(APPROVE)
    assert "opens huggingface.example:443 (tls) by rule approved-huggingface-example-443" in words(page)
    assert "+    hosts: [&#34;huggingface.example&#34;]" in page
    assert 'value="ml-platform@example.com"' in page
    assert revision_of(plane, "coding-agent") == before
    fields = _fields(page) | {"owner": "ml@example.com", "reason": "weights for the tests", "days": "30"}
    assert "(for ml@example.com, approved by ada)" in ada.page("/denials/approve?" + _query(fields))  # previewed again
    told = ada.follow(ada.post("/denials/approve", **fields))
    after = revision_of(plane, "coding-agent")
    assert after != before
    assert f"is in coding-agent now, as revision {after[:12]}, for every node" in words(told)
    assert "approve ada weights for the tests" in words(told)
    assert "huggingface.example 443" in words(told)
    assert "is in coding-agent now" not in ada.page("/policies/coding-agent")  # once
    with plane.database.reading() as tx:
        (row,) = tx.all("SELECT policy, destination, owner, reason, by_whom FROM approvals")
    assert row == ("coding-agent", "huggingface.example", "ml@example.com", "weights for the tests", "ada")


def test_what_was_not_looked_at_is_not_approved(plane: Plane, ada: Visitor) -> None:
    """Another target, another policy revision than that of the preview, or no reason."""
    page = ada.page(APPROVE)
    fields = _fields(page) | {"owner": "ml", "reason": "x", "days": "30"}
    before = revision_of(plane, "coding-agent")
    for change, status in (
        ({"target": "telemetry.vendor.example", "workload": ""}, 409),
        ({"port": "8443"}, 404),
        ({"wildcard": "*.example"}, 400),
        ({"reason": " "}, 400),
        ({"owner": ""}, 400),
        ({"days": "401"}, 400),
        ({"days": "-1"}, 400),
        ({"seen": ""}, 409),
    ):
        assert ada.post("/denials/approve", **(fields | change)).status_code == status, change
    assert revision_of(plane, "coding-agent") == before
    with plane.database.writing() as tx:
        text = policies.document(tx, before) + "# somebody else was here\n"
        policies.apply(tx, [("agent.yaml", text)], Change("root", "a remark", plane.now_ns()))
    refused = ada.post("/denials/approve", **fields)
    assert refused.status_code == 409
    assert "has changed since the preview: look at it again" in words(refused.text)
    again = _fields(ada.page(APPROVE)) | {"owner": "ml", "reason": "x"}
    assert ada.post("/denials/approve", **again).status_code == 303


def test_a_denial_that_no_rule_can_allow_says_what_to_do(ada: Visitor) -> None:
    """In place of a preview."""
    page = ada.page("/denials/approve?target=198.51.100.9&workload=coder-7&policies=coding-agent")
    assert "no rule can allow this (ech)" in words(page)
    assert 'name="seen" value=""' in page


def test_a_policy_is_rolled_back_after_a_look_at_the_difference(plane: Plane, root: Visitor, vera: Visitor) -> None:
    """By an admin, with a reason; not if it has changed in the meantime."""
    with plane.database.reading() as tx:
        latest = policies.history(tx, "coding-agent")[0]
    shown = words(vera.page(f"/policies/coding-agent/diff?from={latest.before}&to={latest.revision}"))
    assert "opens files.pypi.example:443 (tls)" in shown
    path = f"/policies/coding-agent/rollback?to={latest.before}"
    page = root.page(path)
    assert "closes files.pypi.example:443 (tls)" in words(page)
    now = {"now": latest.revision}
    assert root.post(path, **now, reason="").status_code == 400
    assert root.post(path, now="0" * 64, reason="it broke").status_code == 409
    assert revision_of(plane, "coding-agent") == latest.revision
    told = root.follow(root.post(path, **now, reason="it broke"))
    assert "rollback root it broke" in words(told)
    assert revision_of(plane, "coding-agent") == latest.before


def test_a_policys_text_is_shown_as_it_was_written(plane: Plane, vera: Visitor) -> None:
    """And given as it is to whoever wants the file."""
    revision = revision_of(plane, "coding-agent")
    page = vera.page(f"/policies/coding-agent/text?revision={revision}")
    assert "# The agents of the ml platform." in page
    plain = vera.get(f"/policies/coding-agent/text?revision={revision}&as=file")
    assert plain.headers["content-type"].startswith("text/plain")
    with plane.database.reading() as tx:
        assert plain.text == policies.document(tx, revision)
    assert vera.get("/policies/coding-agent/text?revision=nonsense").status_code == 404
    assert vera.get("/policies/nothing").status_code == 404


@pytest.mark.parametrize(
    ("step", "state"),
    [("pause", "stopped"), ("finish", "done"), ("cancel", "cancelled")],
)
def test_a_roll_out_is_held_finished_or_taken_back(plane: Plane, root: Visitor, step: str, state: str) -> None:
    """And goes on from a pause."""
    page = words(root.page("/rollouts"))
    assert "build-farm running" in page
    assert "10 % is where it is 50 % is still to come" in page
    told = root.follow(root.post(f"/rollouts/1/{step}"))
    assert f"roll-out 1 is {step}" in words(told) or f"roll-out 1 is {step}led" in words(told)
    assert rollout_of(plane).state == state
    if step == "pause":
        assert "paused by root" in words(told)
        root.follow(root.post("/rollouts/1/resume"))
        assert rollout_of(plane).state == "running"
    else:
        assert root.post(f"/rollouts/1/{step}").status_code == 409
    assert root.post("/rollouts/1/explode").status_code == 404


def test_a_workload_is_put_into_quarantine_by_a_command_to_its_node(plane: Plane, ada: Visitor) -> None:
    """Asked for on the page, answered by the agent, shown there."""
    path = "node=sandbox-01&workload=coder-7"
    ada.page(f"/workloads/one?{path}")
    assert ada.post(f"/workloads/mode?{path}", mode="quarantine", reason="").status_code == 400
    assert ada.post(f"/workloads/mode?{path}", mode="sleep", reason="x").status_code == 400
    told = words(ada.follow(ada.post(f"/workloads/mode?{path}", mode="quarantine", reason="INC-1", **{"for": "1h"})))
    assert "sandbox-01 was asked to do it" in told
    assert "mode quarantine for coder-7, 1h long INC-1 waiting ada" in told
    with plane.database.writing() as tx:
        (asked,) = commands.waiting(tx, "sandbox-01", plane.now_ns())
        assert (asked.by, asked.set_mode.workload, asked.set_mode.for_s) == ("ada", "coder-7", 3600)
        commands.ended(
            tx, "sandbox-01", plane_pb2.CommandResult(id=asked.id, refusal="no such workload"), plane.now_ns()
        )
    assert "refused no such workload" in words(ada.page(f"/workloads/one?{path}"))


def test_a_destination_is_allowed_for_a_time(plane: Plane, ada: Visitor) -> None:
    """An hour, where nobody says for how long."""
    path = "node=sandbox-01&workload=coder-7"
    ada.page(f"/workloads/one?{path}")
    assert ada.post(f"/workloads/allow?{path}", destination="", reason="x").status_code == 400
    told = ada.follow(ada.post(f"/workloads/allow?{path}", destination="pypi.org", reason="TICKET-42"))
    assert "allow pypi.org for coder-7, 1h long TICKET-42 waiting ada" in words(told)
    assert ada.get("/workloads/one?node=sandbox-01&workload=nobody").status_code == 404
    with plane.database.reading() as tx:
        assert workloads.workload(tx, "sandbox-01", "coder-7")


def test_a_retired_node_is_shown_so_and_may_be_let_in_again(root: Visitor) -> None:
    """By an admin."""
    root.page("/nodes/build-02")
    assert "retired" in words(root.follow(root.post("/nodes/build-02/retire")))
    assert "Let it come again" in root.page("/nodes/build-02")
    assert "away" in words(root.follow(root.post("/nodes/build-02/activate")))


def test_the_report_is_the_planes_own(vera: Visitor) -> None:
    """The same words as on the command line, for another span if wanted."""
    page = words(vera.page("/report?since=24h"))
    assert "Denials per 1,000" in page
    assert "telemetry.vendor.example" in page
    assert vera.get("/report?since=soon").status_code == 400


def test_an_empty_plane_says_how_to_begin(tmp_path: Path) -> None:
    """On each page, with no error."""
    (tmp_path / "empty").mkdir()
    with open_plane(tmp_path / "empty") as plane, serving(plane) as address:
        with plane.database.writing() as tx:
            token = people.add(tx, people.TokenWish("vera", people.Role.VIEWER), plane.now_ns())
        with visiting(address, token) as visitor:
            for path in ("/nodes", "/workloads", "/verdicts", "/denials", "/policies", "/rollouts", "/report"):
                assert visitor.get(path).status_code == 200, path
            assert "No node yet" in visitor.page("/nodes")
            assert "Nothing was denied" in visitor.page("/denials")


def test_a_second_roll_out_of_another_policy_is_a_card_of_its_own(plane: Plane, root: Visitor) -> None:
    """With its own buttons."""
    with plane.database.writing() as tx:
        text = policies.document(tx, revision_of(plane, "everybody")).replace("[123]", "[123, 1123]")
        policies.apply(tx, [("base.yaml", text)], Change("root", "x", plane.now_ns(), plan=Plan()))
    page = root.page("/rollouts")
    assert page.count('aria-labelledby="rollout-') == 2
    assert "/rollouts/2/pause" in page


def _fields(page: str) -> dict[str, str]:
    form = page.partition('id="approve"')[2].partition("</form>")[0]
    found = re.findall(r'<input[^>]*\bname="([^"]+)"[^>]*\bvalue="([^"]*)"', form)
    return {name: value.replace("&#34;", '"') for name, value in found}


def _query(fields: dict[str, str]) -> str:
    return "&".join(f"{name}={_quoted(text)}" for name, text in fields.items())


def _quoted(text: str) -> str:
    return quote(text, safe="")
