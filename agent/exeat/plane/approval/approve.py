"""Turns denials into a rule: first as a preview, then, if nothing has changed since, for good. Who did it is kept.

A preview has a token, a hash over the policy's revision and the text that would come of it. Whoever approves gives it
back: what was looked at is what is applied, or nothing is.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from exeat.core import diff
from exeat.core.diff import What, differences
from exeat.core.diff_words import time_text
from exeat.core.policy_file import read_policy
from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.model.policy import Protocol, Rule
from exeat.model.verdicts import Reason, Verdict
from exeat.plane.api.differences import text_diff
from exeat.plane.approval.aim import Aim, invalid
from exeat.plane.approval.rule import Denied, rule_of, wanted
from exeat.plane.approval.text import append_rule
from exeat.plane.policies import policies, rollouts
from exeat.plane.policies.policies import Draft
from exeat.plane.policies.policy_rows import Action, Change, Source, lock
from exeat.plane.store.database import Row, Tx

LONGEST = timedelta(days=400)
LOOK_BACK_NS = 30 * 86_400 * 1_000_000_000
_WORDS_MAX = 500
_REASONS = frozenset(Reason)
# IPPROTO_* of what each protocol of a rule opens.
_NUMBERS = {Protocol.TLS: (6,), Protocol.TCP: (6,), Protocol.UDP: (17,), Protocol.ICMP: (1, 58)}


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants to allow, and why."""

    aim: Aim
    owner: str
    reason: str
    expires: datetime  # aware
    policy: str = ""  # needed where several denied it
    workload: str = ""  # only denials of this one: a part of its name
    node: str = ""  # only denials there
    wildcard: str = ""  # in place of the host


@dataclass(frozen=True, slots=True)
class Preview:
    """What would come of it."""

    policy: str
    rule: Rule
    base: str  # the policy's revision now
    text: str  # the policy's new document
    text_diff: tuple[str, ...]  # as `diff -u` shows it
    changes: tuple[diff.Change, ...]  # in words
    remarks: tuple[str, ...]
    denials: int
    denied_ns: int  # the first of them
    token: str
    why_not: str  # empty: it can be applied here


@dataclass(frozen=True, slots=True)
class Approval:
    """What came of it."""

    preview: Preview
    revision: str
    history_id: int


@dataclass(frozen=True, slots=True)
class Approver:
    """Who does it, and when."""

    name: str
    now_ns: int


@dataclass(frozen=True, slots=True)
class _Held:
    """The plane's policy as it is."""

    name: str
    revision: str
    source: str
    text: str


def preview(tx: Tx, ask: Ask, by: str, now_ns: int) -> Preview:
    """Changes nothing. Raises Refused where no rule can allow it, or it is not clear which."""
    now = datetime.fromtimestamp(now_ns / 1e9, UTC)
    _check(ask, now)
    denials = _denials(tx, ask, now_ns)
    want = wanted(ask.aim, denials, ask.wildcard or None)
    held = _policy_of(tx, ask, denials)
    old = read_policy(held.text, held.name)
    if old.policy.expires and old.policy.expires <= now:
        raise _not_now(f"the policy {held.name} has expired, and no rule of it allows anything: renew it first")
    rule = rule_of(want, old.policy, ask.expires)
    edited = append_rule(held.text, rule, f"{_plain(ask.reason)} (for {_plain(ask.owner)}, approved by {by})")
    new = read_policy(edited.text, held.name)
    changes = differences(old.policy, new.policy, now)
    if not any(change.what is What.OPENS for change in changes):
        raise _not_now(
            f"the policy {held.name} allows {ask.aim} already: `exeat plane nodes` shows which nodes have not taken "
            "it; what is to be allowed longer gets a later `expires` in its rule"
        )
    remarks = [*want.remarks, *(warning for warning in new.warnings if warning not in old.warnings)]
    if rule.expires and rule.expires < ask.expires:
        remarks.append(f"the policy {held.name} ends at {time_text(rule.expires)}, and the rule with it")
    if edited.is_rewritten:
        remarks.append("the rule has no place in the text as it is written: it is written anew, without its comments")
    return Preview(
        policy=held.name,
        rule=rule,
        base=held.revision,
        text=edited.text,
        text_diff=text_diff(held.text, edited.text, f"{held.name} {held.revision[:12]}", f"{held.name} approved"),
        changes=changes,
        remarks=tuple(remarks),
        denials=sum(one.count for one in denials),
        denied_ns=min(one.first_ns for one in denials),
        token=hashlib.sha256(f"{held.revision}\0{edited.text}".encode()).hexdigest()[:32],
        why_not=_why_not(tx, held),
    )


def approve(tx: Tx, ask: Ask, by: str, token: str, now_ns: int) -> Approval:
    """Applies what was previewed, to all nodes at once. Raises Refused where it is something else by now."""
    seen = preview(tx, ask, by, now_ns)
    check_token(seen, token)
    return settle(tx, ask, seen, Approver(by, now_ns), policies.read_all([(seen.policy, seen.text)]))


def check_token(seen: Preview, token: str) -> None:
    """Raises Refused unless this is what the token was given for, and it can be applied here."""
    if seen.why_not:
        raise _not_now(seen.why_not)
    if not hmac.compare_digest(seen.token.encode(), token.encode(errors="surrogatepass")):
        raise _changed(seen)


def settle(tx: Tx, ask: Ask, seen: Preview, by: Approver, drafts: Sequence[Draft]) -> Approval:
    """Applies a preview that was made in an earlier transaction, and `drafts`, its text, which was read before: large
    policies must not keep the store's only writer. Raises Refused where the policy has changed since."""
    lock(tx)
    held = _held(tx, seen.policy)
    if held is None or held.revision != seen.base:
        raise _changed(seen)
    if why_not := _why_not(tx, held):
        raise _not_now(why_not)
    change = Change(by=by.name, reason=ask.reason, at_ns=by.now_ns, action=Action.APPROVE)
    placed = policies.place(tx, drafts, change)[0]
    tx.do(
        "INSERT INTO approvals (policy, rule, destination, workload, owner, reason, expires_ns, by_whom, at_ns, "
        "denied_ns, history_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(seen.policy, seen.rule.name, str(ask.aim), ask.workload, ask.owner, ask.reason),
        *(_ns(seen.rule.expires), by.name, by.now_ns, seen.denied_ns, placed.history_id),
    )
    return Approval(seen, placed.revision, placed.history_id)


def _check(ask: Ask, now: datetime) -> None:
    for name, text in (("owner", ask.owner), ("reason", ask.reason)):
        if not text.strip():
            raise invalid(f"an approval needs its {name}: it stands in the policy, and in the history")
        if len(text) > _WORDS_MAX:
            raise invalid(f"the {name} has {len(text)} characters: write at most {_WORDS_MAX}")
    if not now < ask.expires <= now + LONGEST:
        raise invalid(f"the rule would end at {time_text(ask.expires)}: give a time in the next {LONGEST.days} days")


def _denials(tx: Tx, ask: Ask, now_ns: int) -> list[Denied]:
    rows = tx.all(
        "SELECT policy, workload, node, hook, port, protocol, reason, SUM(count), MIN(first_ns), MAX(last_ns) "
        "FROM tallies WHERE hour_ns >= ? AND verdict <> ? AND LOWER(target) = ? "
        "GROUP BY policy, workload, node, hook, port, protocol, reason",
        now_ns - LOOK_BACK_NS,
        int(Verdict.FORWARDED),
        ask.aim.target,
    )
    found = [_denied(row) for row in rows if row[6] in _REASONS]
    return [
        one
        for one in found
        if ask.workload in one.workload
        and (not ask.node or one.node == ask.node)
        and (one.hook == "query" or _is_as_denied(ask.aim, one))
    ]


def _is_as_denied(aim: Aim, one: Denied) -> bool:
    """Who may approve what was denied over TCP must not open UDP with it."""
    is_port = aim.port is None or one.port == aim.port
    is_nothing = aim.protocol is Protocol.ICMP and aim.address is None  # refused later, in a sentence of its own
    return is_port and (aim.protocol is None or is_nothing or one.protocol in _NUMBERS[aim.protocol])


def _denied(row: Row) -> Denied:
    policy, workload, node, hook, port, protocol, reason, count, first_ns, last_ns = row
    # PostgreSQL sums to a Decimal.
    return Denied(policy, workload, node, hook, port, protocol, Reason(reason), int(count), first_ns, last_ns)


def _policy_of(tx: Tx, ask: Ask, denials: Sequence[Denied]) -> _Held:
    """The one that denied it. Several that hold together deny together: any of them could allow it."""
    names = sorted({name for one in denials for name in one.policy.split("+")})
    if ask.policy:
        if ask.policy not in names:
            raise _not_now(f"{shown(ask.policy)} did not deny {ask.aim}: {', '.join(names)} did")
        names = [ask.policy]
    held = [one for name in names if (one := _held(tx, name))]
    if not held:
        raise Refused(
            StatusWord.NOT_FOUND,
            f"the plane has no policy {' or '.join(names)}: it comes from a file on the node, or from `exeat run`, and "
            "must be changed there",
        )
    if len(held) > 1:
        raise invalid(f"several policies denied {ask.aim} ({', '.join(one.name for one in held)}): say which one")
    return held[0]


def _held(tx: Tx, name: str) -> _Held | None:
    row = tx.one(
        "SELECT p.name, p.revision, p.source, d.text FROM policies p JOIN documents d ON d.revision = p.revision "
        "WHERE p.name = ?",
        name,
    )
    return _Held(*row) if row else None


def _why_not(tx: Tx, held: _Held) -> str:
    """An approval goes to every node at once, and would take what a roll-out has not shown to be good along."""
    if underway := rollouts.underway(tx).get(held.name):
        return f"roll-out {underway.id} of {held.name} is {underway.state}: finish or cancel it, then approve"
    if held.source == Source.CLUSTER:
        return f"the policy {held.name} is kept {policies.where_kept(held.name, Source.CLUSTER)}"
    if held.source != Source.DIRECTORY:
        return ""
    return f"the policy {held.name} is kept in the plane's directory of policies: make this change there, and commit it"


def _plain(text: str) -> str:
    return " ".join(text.split())


def _ns(moment: datetime | None) -> int:
    return 0 if moment is None else round(moment.timestamp() * 1e9)


def _changed(seen: Preview) -> Refused:
    return _not_now(f"the policy {seen.policy} is not what it was at the preview: look at it again")


def _not_now(sentence: str) -> Refused:
    return Refused(StatusWord.PRECONDITION, sentence)
