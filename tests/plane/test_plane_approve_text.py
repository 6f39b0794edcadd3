"""A rule put into a policy's text: the text then says the old rules and exactly this one, and keeps its comments."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeat.core.allow_flag import parse_allow, parse_allow_cidr
from exeat.core.policy_file import read_policy
from exeat.core.policy_text import policy_document
from exeat.model.policy import Rule
from exeat.plane.approval.text import append_rule

END = datetime(2027, 3, 31, tzinfo=UTC)
RULE = replace(parse_allow("api.example.com"), name="approved-api-example-com-443", expires=END)
REMARK = "needed for builds (for ml@example.com, approved by alice)"
HEAD = "apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {name: coder}\n"

# Every way to write a list of rules that we know of.
BLOCKS = {
    "dashes in line with the field": "spec:\n  egress:\n  - name: one\n    hosts: [a.example.com]\n",
    "dashes further in": "spec:\n  egress:\n      - name: one\n        hosts:\n          - a.example.com\n",
    "a dash alone": "spec:\n  egress:\n  -\n    name: one\n    hosts: [a.example.com]\n",
    "fields after the rules": "spec:\n  egress:\n  - name: one\n    hosts: [a.example.com]\n  owner: me\n",
    "no line end": "spec:\n  egress:\n  - name: one\n    hosts: [a.example.com]",
    "an end of document": "spec:\n  egress:\n  - name: one\n    hosts: [a.example.com]\n...\n",
    "a rule in braces": "spec:\n  egress:\n  - {name: one, hosts: [a.example.com]}\n"
    "  - {name: two, hosts: [b.example.com],\n     ports: [443]}\n",
    "anchors": "spec:\n  egress:\n  - name: one\n    hosts: &shared [a.example.com]\n  - name: two\n"
    "    hosts: *shared\n    ports: [8443]\n",
    "anchors before rules": "spec:\n  egress: &all\n  - &first\n    name: one\n    hosts: [a.example.com]\n",
    "a list in brackets": "spec:\n  egress: [{name: one, hosts: [a.example.com]}]\n",
    "brackets over lines": "spec:\n  egress: [\n    {name: one, hosts: [a.example.com]},\n"
    "    {name: two, hosts: [b.example.com]}\n  ]\n",
    "a comma at the end": "spec: {egress: [{name: one, hosts: [a.example.com]},]}\n",
    "nothing yet": "spec:\n  egress: []\n",
    "nothing yet, and a comment": "spec:\n  egress: []   # nothing yet\n  mode: open\n",
    "nothing yet, in braces": "spec: {mode: open, egress: []}\n",
    "brackets far apart": "spec:\n  egress: [\n  ]\n  mode: open\n",
    "quoted fields": 'spec:\n  "egress":\n  - "name": one\n    "hosts": [a.example.com]\n',
    "a folded text": "spec:\n  egress:\n  - name: one\n    hosts:\n    - >-\n      a.example.com\n\n  mode: open\n",
    "a text in lines": "spec:\n  egress:\n  - hosts: [a.example.com]\n    name: |-\n      one\n",
    "beyond ASCII": 'spec:\n  reason: für – 例え\n  egress:\n  - name: "größe"\n    hosts: [a.example.com]  # 例え\n',
}


def check(text: str, rule: Rule = RULE) -> str:
    """The edited text, once it says what it should."""
    before = read_policy(text, "before").policy
    edited = append_rule(text, rule, REMARK)
    assert read_policy(edited.text, "after").policy == replace(before, rules=(*before.rules, rule))
    assert not edited.is_rewritten
    return edited.text


@pytest.mark.parametrize("form", BLOCKS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_each_form_of_a_policy_takes_one_rule_more(form: str, newline: str, mark: str) -> None:
    """And a second one, which must find its place behind the first."""
    text = mark + (HEAD + BLOCKS[form]).replace("\n", newline)
    once = check(text)
    check(once, replace(RULE, name="another"))
    assert once.startswith(mark + "apiVersion")
    assert ("\r\n" in once) == ("\r\n" in text)


def test_every_line_of_the_old_text_stays_in_its_order() -> None:
    """Comments and blank lines too; what is new stands in one place."""
    text = (
        "# Whose policy this is\n" + HEAD + "spec:\n  # rules\n  egress:\n  - name: one  # the first\n"
        "    hosts:\n    - a.example.com  # why\n    # more about the first\n\n  # the second\n  - name: two\n"
        "    hosts: [b.example.com]\n    # about the second\n  # at the end\n\n  mode: enforce  # at once\n# last\n"
    )
    old, new = text.splitlines(), check(text).splitlines()
    at = next(index for index, line in enumerate(new) if REMARK in line)
    added = len(new) - len(old)
    assert new[:at] + new[at + added :] == old or new[: at - 1] + new[at - 1 + added :] == old
    assert new[at - 1 : at + 6] == [
        "",
        f"  # {REMARK}",
        "  - name: approved-api-example-com-443",
        "    protocol: tls",
        '    hosts: ["api.example.com"]',
        "    ports: [443]",
        '    expires: "2027-03-31T00:00:00Z"',
    ]
    assert new[at - 2] == "    # about the second"


def test_json_stays_json() -> None:
    """On one line, and with indentation."""
    document = policy_document(read_policy(HEAD + BLOCKS["a rule in braces"], "x").policy)
    for text in (
        json.dumps(document),
        json.dumps(document, indent=2),
        json.dumps(document, indent="\t", sort_keys=True),
    ):
        rules = json.loads(check(text))["spec"]["egress"]
        assert [rule["name"] for rule in rules] == ["one", "two", "approved-api-example-com-443"]


def test_what_cannot_be_edited_is_written_anew() -> None:
    """A list whose dashes cannot be found: the same policy, and told that comments are gone."""
    text = HEAD + "spec:\n  # rules\n  egress: &all\n  -\n    name: one\n    hosts: [a.example.com]\n"
    before = read_policy(text, "before").policy
    edited = append_rule(text, RULE, REMARK)
    assert edited.is_rewritten
    assert read_policy(edited.text, "after").policy == replace(before, rules=(*before.rules, RULE))
    assert "#" not in edited.text


@pytest.mark.parametrize("remark", ["", "a\nb: c\r\n- name: evil", "\u202e \x07 \u2028", "x" * 5000, "# # '\" {{ }}"])
def test_a_remark_is_a_comment_whatever_it_says(remark: str) -> None:
    """It cannot become a rule, nor make the text unreadable."""
    text = HEAD + BLOCKS["dashes further in"]
    before = read_policy(text, "before").policy
    edited = append_rule(text, RULE, remark)
    assert read_policy(edited.text, "after").policy.rules == (*before.rules, RULE)
    assert not edited.is_rewritten


@pytest.mark.parametrize("destination", ["203.0.113.7:5432/tcp", "[2001:db8::7]:443/udp", "203.0.113.7/icmp"])
def test_addresses_are_written_as_networks(destination: str) -> None:
    """Of IPv4 and IPv6, and pings, which have no port."""
    for form in BLOCKS.values():
        check(HEAD + form, replace(parse_allow_cidr(destination), name="approved-address"))


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}(-[a-z0-9]{1,4}){1,3}", fullmatch=True)
INDENT = st.integers(0, 4)
COMMENT = st.sampled_from(["", "  # a comment", " # [not, a: list]", "  #"])
GAP = st.sampled_from(["", "\n", "# between\n", "\n        # deep\n\n"])


@st.composite
def policies(draw: st.DrawFn) -> str:
    """Texts as people write them: indentation, comments, flow and block mixed."""
    dash, inner = " " * (2 + draw(INDENT)), draw(st.integers(1, 3))
    rules = []
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        end = draw(COMMENT) + "\n" + draw(GAP)
        if draw(st.booleans()):
            rules.append(f"{dash}-{' ' * inner}{{name: {name}, hosts: [{name}.example.com]}}{end}")
        else:
            column = dash + " " * (inner + 1)
            form = draw(st.sampled_from(["[{}]", "\n{column}- {}", '["{}"]']))
            hosts = form.format(f"{name}.example.com", column=column)
            rules.append(f"{dash}-{' ' * inner}name: {name}{draw(COMMENT)}\n{column}hosts: {hosts}{end}")
    egress = f"  egress:{draw(COMMENT)}\n{''.join(rules)}" if rules else f"  egress: []{draw(COMMENT)}\n"
    mode = "  mode: monitor # why\n"
    return HEAD + "spec:\n" + (mode + egress if draw(st.booleans()) else egress + mode)


@settings(max_examples=200, deadline=None)
@given(policies())
def test_any_policy_takes_one_rule_more(text: str) -> None:
    """And loses no comment."""
    edited = check(text)
    assert all(line.strip() in edited for line in text.splitlines() if "#" in line and "egress: []" not in line)
