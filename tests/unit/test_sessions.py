"""Whose word about sessions an agent takes, and for how long: keys that come and go, replays, clocks that are set."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exeat.agent import sessions as module
from exeat.agent.session_context import SessionContext
from exeat.agent.sessions import Sessions
from exeat.errors import Refused, StatusWord
from exeat.session_settings import SessionSettings
from unit.session_words import HEADER, SUBJECT, Orchestrator, claims, encoded, write_keys

SECOND = 10**9
NAMES = (SUBJECT, "/agents.slice/coder-7.scope")


class Clocks:
    """Both, as a test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_ns = self.passed_ns = 0
        wall_ns, boot_ns = time.time_ns(), module.boot_ns()
        monkeypatch.setattr(module.time, "time_ns", lambda: wall_ns + self.ahead_ns + self.passed_ns)
        monkeypatch.setattr(module, "boot_ns", lambda: boot_ns + self.passed_ns)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """They stand as they are."""
    return Clocks(monkeypatch)


@pytest.fixture
def signer() -> Orchestrator:
    """Whose key is in the file."""
    return Orchestrator()


@pytest.fixture
def keys(tmp_path: Path, signer: Orchestrator) -> Path:
    """The file."""
    path = tmp_path / "sessions.pub"
    write_keys(path, signer)
    return path


@pytest.fixture
def sessions(keys: Path) -> Sessions:
    """An agent's."""
    return Sessions(SessionSettings(keys))


def accept(sessions: Sessions, token: str, before: SessionContext | None = None) -> SessionContext:
    """The context that a token gives."""
    return sessions.accept(token, NAMES, before, "uid 0")


def refusal(sessions: Sessions, token: str, before: SessionContext | None = None) -> str:
    """Why there is none; a context that was there goes on."""
    with pytest.raises(Refused) as refused:
        accept(sessions, token, before)
    assert refused.value.word in (StatusWord.INVALID, StatusWord.PRECONDITION)
    assert str(refused.value).isprintable()
    return str(refused.value)


def test_a_signed_context_says_for_whom_its_workload_works(sessions: Sessions, signer: Orchestrator) -> None:
    """With and without the key's id; ended, it says nothing, and without one nothing is said."""
    context = accept(sessions, signer.token(header={"kid": signer.id}))
    said = sessions.said_by(context)
    assert said
    assert (said.session, said.user, said.tool, said.run) == ("s-42", "alice", "shell", "r-1")
    assert sessions.said_by(accept(sessions, signer.token(user="bob"))).user == "bob"  # type: ignore[union-attr]
    assert sessions.said_by(context.ended()) is None
    assert sessions.said_by(None) is None


def test_what_another_key_has_signed_is_refused(sessions: Sessions, signer: Orchestrator) -> None:
    """Under its own id, under the right one, or none; altered in the content, or with another's signature."""
    forger = Orchestrator()
    assert "altered, or signed by another key" in refusal(sessions, forger.token())
    assert "altered, or signed by another key" in refusal(sessions, forger.token(header={"kid": signer.id}))
    assert f"is signed by key `{forger.id}`" in refusal(sessions, forger.token(header={"kid": forger.id}))
    header, payload, signature = signer.token().split(".")
    other = signer.token(user="root").split(".")
    for forged in ((header, other[1], signature), (header, payload, other[2]), (header, payload, encoded(b"\0" * 64))):
        assert "altered, or signed by another key" in refusal(sessions, ".".join(forged))
    assert "altered" in refusal(sessions, f"{header}.{payload}.{signature[:-6]}")
    accept(sessions, f"{header}.{payload}.{signature}")


@pytest.mark.parametrize(
    "kid", ["/etc/exeat/sessions.pub", "../sessions.pub", "0", "*", "\x1b[2J", "' OR 1=1 --", "x" * 4000]
)
def test_a_keys_id_is_looked_up_and_nothing_else(sessions: Sessions, signer: Orchestrator, kid: str) -> None:
    """It is no path, no query and no pattern; and none that fits is no reason to try them all."""
    assert "is signed by key" in refusal(sessions, signer.token(header={"kid": kid}))


def test_what_is_wrong_with_a_token_is_said_only_if_it_is_signed(sessions: Sessions, signer: Orchestrator) -> None:
    """Nobody without a key learns what an agent would take."""
    forger = Orchestrator()
    for changed in ({"sub": "other"}, {"aud": "other"}, {"exp": 5, "iat": 1}, {"session": ""}):
        assert "altered, or signed by another key" in refusal(sessions, forger.token(**changed))
    assert "is for workload `other`" in refusal(sessions, signer.token(sub="other"))
    assert "`aud` is `other`" in refusal(sessions, signer.token(aud="other"))
    assert "has expired" in refusal(sessions, signer.token(exp=5, iat=1))
    assert "`session` is" in refusal(sessions, signer.token(session=""))
    assert "does not hold before" in refusal(sessions, signer.token(nbf=int(time.time()) + 100))


def test_without_keys_nobody_may_sign(tmp_path: Path, signer: Orchestrator) -> None:
    """No file is no fault of anybody's; as soon as one is there, it counts."""
    keys = tmp_path / "none.pub"
    sessions = Sessions(SessionSettings(keys))
    assert f"no key may sign sessions here: {keys} is not there" in refusal(sessions, signer.token())
    assert sessions.complaint == ""
    write_keys(keys, signer)
    assert accept(sessions, signer.token())


def test_an_older_token_is_refused_and_the_same_one_is_not(sessions: Sessions, signer: Orchestrator) -> None:
    """A renewal takes the place of what was; what was cannot come back."""
    now = int(time.time())
    first = signer.token(iat=now - 20, exp=now + 1000)
    second = signer.token(iat=now - 10, exp=now + 500, user="bob")
    held = accept(sessions, first)
    assert accept(sessions, first, held) == held
    renewed = accept(sessions, second, held)
    assert "was issued before the one" in refusal(sessions, first, renewed)
    assert accept(sessions, second, renewed) == renewed
    assert accept(sessions, signer.token(iat=now - 10, session="s-43"), renewed).token != renewed.token
    over = renewed.ended()
    assert "was issued before the one" in refusal(sessions, first, over)
    assert "has ended already" in refusal(sessions, second, over)
    assert accept(sessions, signer.token(iat=now - 5), over).token


def test_a_context_ends_by_either_clock(sessions: Sessions, signer: Orchestrator, clocks: Clocks) -> None:
    """Set back, the wall clock neither prolongs it nor brings it back; set forward, it ends it."""
    now = time.time_ns() // SECOND  # by the clock that stands
    token = signer.token(iat=now, exp=now + 60)
    context = accept(sessions, token)
    clocks.passed_ns = 59 * SECOND
    assert sessions.said_by(context)
    clocks.passed_ns = 60 * SECOND
    assert sessions.said_by(context) is None
    clocks.ahead_ns = -50 * SECOND
    assert sessions.said_by(context) is None
    assert sessions.said_by(accept(sessions, token, context)) is None  # taken again, it ends when it did
    assert "has ended already" in refusal(sessions, token, context.ended())
    clocks.passed_ns, clocks.ahead_ns = 0, 61 * SECOND
    assert sessions.said_by(context) is None


def test_a_key_that_is_withdrawn_takes_its_contexts_along(sessions: Sessions, signer: Orchestrator, keys: Path) -> None:
    """Another one's go on. It happens when the file has stayed the same from one look to the next."""
    other = Orchestrator()
    write_keys(keys, signer, other)
    one, two = accept(sessions, signer.token()), accept(sessions, other.token())
    assert sessions.have_keys_changed()
    write_keys(keys, other)
    assert not sessions.have_keys_changed()
    assert sessions.said_by(one)
    assert sessions.have_keys_changed()
    assert sessions.said_by(one) is None
    assert sessions.said_by(two)
    assert "altered, or signed by another key" in refusal(sessions, signer.token())
    assert not sessions.have_keys_changed()


def test_a_file_that_is_gone_withdraws_every_key(sessions: Sessions, signer: Orchestrator, keys: Path) -> None:
    """Without a complaint: somebody wanted it so."""
    context = accept(sessions, signer.token())
    keys.unlink()
    assert [sessions.have_keys_changed() for _ in range(3)] == [False, True, False]
    assert (sessions.said_by(context), sessions.complaint) == (None, "")
    assert "is not there" in refusal(sessions, signer.token())


def garbage(name: str, signer: Orchestrator) -> bytes:
    """What may stand where keys are expected."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    elliptic = generate_private_key(SECP256R1()).public_key()
    return {
        "empty": b"",
        "half": signer.pem[:60],
        "one and a half": signer.pem + signer.pem[:60],
        "words": signer.pem + b"and some words\n",
        "another kind": signer.pem + elliptic.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "private": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "bytes": os.urandom(500),
        "too long": signer.pem + b"#" * 70_000,
        "too many": signer.pem * 65,
        "not base64": b"-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n",
    }[name]


KINDS = (
    "empty", "half", "one and a half", "words", "another kind", "private", "bytes", "too long", "too many",
    "not base64",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_list_of_keys_leaves_those_before_in_force(
    sessions: Sessions, signer: Orchestrator, keys: Path, kind: str
) -> None:
    """With a complaint, which goes when the file is good again."""
    context = accept(sessions, signer.token())
    keys.write_bytes(garbage(kind, signer))
    assert [sessions.have_keys_changed() for _ in range(3)] == [False, False, False]
    assert sessions.complaint.startswith(f"{keys}: ")
    assert sessions.complaint.endswith("; the keys before it may still sign")
    assert sessions.said_by(context)
    assert accept(sessions, signer.token())
    write_keys(keys, signer, Orchestrator())
    sessions.have_keys_changed()
    assert sessions.have_keys_changed()
    assert sessions.complaint == ""
    assert sessions.said_by(context)


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_that_starts_with_no_list_of_keys_believes_nobody(
    keys: Path, signer: Orchestrator, sessions: Sessions, kind: str
) -> None:
    """What was kept holds again when the keys are back."""
    context = accept(sessions, signer.token())
    keys.write_bytes(garbage(kind, signer))
    later = Sessions(SessionSettings(keys))
    assert later.complaint.endswith("; nobody may sign sessions")
    assert later.said_by(context) is None
    assert f"no key may sign sessions here: {keys}: " in refusal(later, signer.token())
    write_keys(keys, signer)
    later.have_keys_changed()
    assert later.have_keys_changed()
    assert later.said_by(context)


def test_keys_that_cannot_be_read_leave_those_before_in_force(
    sessions: Sessions, signer: Orchestrator, keys: Path
) -> None:
    """A directory in the file's place, or a loop of links; it is tried again."""
    context = accept(sessions, signer.token())
    for unreadable in (keys.mkdir, lambda: keys.symlink_to(keys.name)):
        keys.unlink()
        unreadable()
        assert [sessions.have_keys_changed() for _ in range(3)] == [False, False, False]
        assert "the keys before it may still sign" in sessions.complaint
        assert sessions.said_by(context)
        if keys.is_symlink():
            keys.unlink()
        else:
            keys.rmdir()
        write_keys(keys, signer)
        sessions.have_keys_changed()
        sessions.have_keys_changed()
        assert sessions.complaint == ""


def test_what_was_kept_is_checked_again(sessions: Sessions, signer: Orchestrator, keys: Path) -> None:
    """By the next agent: what was altered on disk, or was meant for another audience, says nothing."""
    context = accept(sessions, signer.token())
    later = Sessions(SessionSettings(keys))
    assert later.said_by(context)
    forged = signer.sign(HEADER, claims(user="root")).rpartition(".")[0] + "." + context.token.rpartition(".")[2]
    for altered in (forged, Orchestrator().token(), "x", "", "a.b.c", "\udc80"):
        assert later.said_by(replace(context, token=altered)) is None
    assert Sessions(SessionSettings(keys, "exeat-staging")).said_by(context) is None


@pytest.mark.parametrize("changed", [{"until_ns": 1}, {"until_boot_ns": 1}, {"token": ""}])
def test_a_context_that_was_kept_is_over_when_its_time_has_come(
    sessions: Sessions, signer: Orchestrator, changed: dict[str, Any]
) -> None:
    """Before anybody has looked at the clocks for it."""
    context = accept(sessions, signer.token())
    assert sessions.said_by(replace(context, **changed)) is None
