"""Session tokens taken apart: what a good one says, and how each bad one is refused before it is believed."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as some

from exeat.audit.signing import Verifier
from exeat.core.session_token import SKEW_S, TOKEN_MAX, claimed_subject, open_token, read_claims, why_not
from exeat.model.identity import Session
from unit.session_words import HEADER, SUBJECT, Orchestrator, as_json, claims, encoded

SECOND = 10**9
NOW = 1_900_000_000
GOOD = {"aud": "exeat", "sub": SUBJECT, "iat": NOW, "exp": NOW + 60, "session": "s-1"}


@pytest.fixture(scope="module")
def orchestrator() -> Orchestrator:
    """Who signs."""
    return Orchestrator()


def refused(payload: object) -> str:
    """Why these claims are none."""
    with pytest.raises(ValueError, match=r"^the token") as refusal:
        read_claims(as_json(payload))
    assert str(refusal.value).isprintable()
    return str(refusal.value)


def refused_whole(token: str) -> str:
    """Why this is no token."""
    with pytest.raises(ValueError, match=r"^th(e|is)") as refusal:
        open_token(token)
    assert str(refusal.value).isprintable()
    return str(refusal.value)


def test_a_good_token_says_whose_session_it_is(orchestrator: Orchestrator) -> None:
    """Taken apart, its signature is right for the content, and its claims are those that were signed."""
    sealed = open_token(orchestrator.token(header={"kid": orchestrator.id}, exp=NOW + 9, iat=NOW, nbf=NOW + 3))
    assert sealed.key == orchestrator.id
    assert Verifier(orchestrator.public).has_signed(sealed.content, sealed.signature)
    read = read_claims(sealed.payload)
    assert read.session == Session("s-42", "alice", "shell", "r-1", (NOW + 9) * SECOND)
    assert (read.subject, read.audiences) == (SUBJECT, ("exeat",))
    assert (read.issued_ns, read.not_before_ns) == (NOW * SECOND, (NOW + 3) * SECOND)


def test_what_pyjwt_signs_is_taken() -> None:
    """The library that most orchestrators in Python use, told nothing but the algorithm."""
    key = Ed25519PrivateKey.generate()
    sealed = open_token(jwt.encode(claims(), key, algorithm="EdDSA"))
    public = key.public_key().public_bytes_raw()
    assert Verifier(public).has_signed(sealed.content, sealed.signature)
    assert read_claims(sealed.payload).session.user == "alice"


def test_fractions_of_a_second_and_several_audiences_are_taken() -> None:
    """As RFC 7519 has them."""
    read = read_claims(as_json({**GOOD, "aud": ["other", "exeat"], "iat": NOW + 0.5, "exp": NOW + 1.25}))
    assert (read.issued_ns, read.until_ns) == (NOW * SECOND + SECOND // 2, (NOW + 1) * SECOND + SECOND // 4)
    assert why_not(read, "exeat", (SUBJECT,), NOW * SECOND) == ""


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS256", "ES256", "Ed25519", "eddsa", None, 7, ["EdDSA"]]
)
def test_there_is_one_algorithm(orchestrator: Orchestrator, algorithm: object) -> None:
    """Whatever else a header names is refused, though the signature is right."""
    assert "sign it by Ed25519" in refused_whole(orchestrator.sign({"alg": algorithm, "typ": "JWT"}, claims()))
    assert "sign it by Ed25519" in refused_whole(orchestrator.sign({"typ": "JWT"}, claims()))


def test_an_unsigned_token_and_one_that_is_signed_with_the_public_key_are_refused(orchestrator: Orchestrator) -> None:
    """`none`, and HS256 with what everybody knows as the secret: the two classics."""
    unsigned = f"{encoded(as_json({'alg': 'none'}))}.{encoded(as_json(claims()))}."
    assert "this is no token" in refused_whole(unsigned)
    assert "`alg` is `none`" in refused_whole(unsigned + "AA")
    for secret in (orchestrator.public, encoded(orchestrator.public).encode()):
        assert "`alg` is `HS256`" in refused_whole(jwt.encode(claims(), secret, algorithm="HS256"))


@pytest.mark.parametrize("name", ["crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc", "\x1b[2J"])
def test_a_header_brings_nothing_along(orchestrator: Orchestrator, name: str) -> None:
    """No key, no address of one, and nothing that a reader would have to understand."""
    assert "which is not taken" in refused_whole(orchestrator.token(header={name: ["exp"]}))


@pytest.mark.parametrize("kid", ["", 7, None, ["x"], {"x": 1}])
def test_a_key_is_named_by_a_text_or_not_at_all(orchestrator: Orchestrator, kid: object) -> None:
    """What is a text is compared with ids and never opened as a file."""
    assert "`kid` is no key's id" in refused_whole(orchestrator.token(header={"kid": kid}))
    assert open_token(orchestrator.token(header={"kid": "../../etc/passwd\0"})).key == "../../etc/passwd\0"


def test_a_token_is_written_in_one_way(orchestrator: Orchestrator) -> None:
    """Padding, odd bits at an end, the other alphabet, blanks, a part too many: refused, and so is another `typ`."""
    good = orchestrator.token()
    header, payload, signature = good.split(".")
    open_token(good)
    odd = signature[:-1] + chr(ord(signature[-1]) + 1)  # 64 bytes leave 4 bits over
    assert "signature is no base64url" in refused_whole(f"{header}.{payload}.{odd}")
    assert "`typ` is `at+jwt`" in refused_whole(orchestrator.token(header={"typ": "at+jwt"}))
    for bad in (
        f"{good}=",
        f"{good}\n",
        f" {good}",
        f"{good}.x",
        f"{header}.{payload}",
        f"..{signature}",
        "",
        ".",
        "a.b",
    ):
        assert "this is no token" in refused_whole(bad)
    for bad in (good.replace(".", "\uff0e"), f"{header}.{payload}.{signature[:-1]}\u212a"):
        assert "this is no token" in refused_whole(bad)
    assert "no base64url" in refused_whole(f"A.{payload}.{signature}")


def test_what_is_too_long_is_not_read(orchestrator: Orchestrator) -> None:
    """At the last character that is read, a token is a token."""
    long = orchestrator.token(note="x" * TOKEN_MAX)
    assert "at most 8192 are read" in refused_whole(long)
    room = (TOKEN_MAX - len(orchestrator.token(note=""))) * 3 // 4
    open_token(orchestrator.token(note="x" * (room - 2)))


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"null", b"[]", b'"x"', b"{", b"\xff{}", b"\xef\xbb\xbf{}", b"[" * 6000, b'{"a":' * 1500, b'{"exp":NaN}',
        b'{"exp":Infinity}', b'{"exp":' + b"9" * 5000 + b"}", b'{"a":1}{}', b"{'a':1}", as_json(GOOD)[:-1],
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    """However deep, long or strange."""
    assert "no JSON" in refused(payload)


def test_nothing_stands_twice(orchestrator: Orchestrator) -> None:
    """One reader takes the first and another the last: neither does here. In a header as well, and deep inside."""
    twice = as_json(GOOD)[:-1] + b',"sub":"other"}'
    assert "`sub` twice" in refused(twice)
    assert "`sub` twice" in refused(as_json(GOOD)[:-1] + b',"s\\u0075b":"other"}')
    assert "`x` twice" in refused(as_json(GOOD)[:-1] + b',"deep":{"x":1,"x":2}}')
    header = b'{"alg":"EdDSA","alg":"none"}'
    assert "`alg` twice" in refused_whole(orchestrator.sign(header, claims()))


@pytest.mark.parametrize("name", ["sub", "session", "aud", "exp", "iat"])
def test_what_is_required_is_missed(name: str) -> None:
    """Each with a sentence of its own that says what to write."""
    assert f"has no `{name}`" in refused({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    "value",
    [
        "", " ", "x" * 254, "a\nb", "\x1b[31mred", "a\0b", "a\x7f", "a\u202eb", "a\u200bb", "a\u2066b", "\ufeffa",
        "a\u00a0b", " a", "a ", "e\u0301", "a\u2028b", "\ue000", "\udc80", 7, True, None, ["a"], {"a": "b"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["sub", "session", "user", "tool", "run"])
def test_a_text_shows_all_that_it_is(name: str, value: object) -> None:
    """No control characters, no invisible or turning ones, one way to write each letter, and not too long."""
    assert f"`{name}` is" in refused({**GOOD, name: value})


@pytest.mark.parametrize(
    "value", ["a", "x" * 253, "\u00e9", "\u7532", "alice smith", "a/b@c:d+e", '"quoted"', "\U0001f511"]
)
def test_other_texts_are_taken(value: str) -> None:
    """Twin of the test above."""
    assert read_claims(as_json({**GOOD, "user": value})).session.user == value


@pytest.mark.parametrize(
    "value", ["1", True, None, 0, -1, 253_402_300_800, 10**30, 1e300, [NOW], "2030-01-01T00:00:00Z"]
)
@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_a_time_is_a_number_of_seconds(name: str, value: object) -> None:
    """One that a clock can show."""
    assert f"has no `{name}` that is a time" in refused({**GOOD, name: value})


def test_a_token_that_ends_before_it_begins_is_none() -> None:
    """An orchestrator's mistake, told as one."""
    assert "not later than its `iat`" in refused({**GOOD, "exp": NOW})


@pytest.mark.parametrize("audience", [None, "", 7, [], [7], ["exeat", ""], ["a"] * 17, "a\x1b"])
def test_an_audience_is_a_text_or_a_few(audience: object) -> None:
    """What is nobody is refused, not taken for everybody."""
    assert "has no `aud`" in refused({**GOOD, "aud": audience})


def why(
    now: float = NOW, audience: str = "exeat", names: tuple[str, ...] = (SUBJECT, "/a/b"), **changed: object
) -> str:
    """What a signed token is answered."""
    return why_not(read_claims(as_json({**GOOD, **changed})), audience, names, int(now * SECOND))


def test_a_token_holds_here_now_and_for_one_workload() -> None:
    """Each of its borders, from both sides."""
    assert why() == ""
    assert "`aud` is `exeat`" in why(audience="exeat-staging")
    assert "`aud` is `exeat2`, `Exeat`" in why(aud=["exeat2", "Exeat"])
    assert why(sub="/a/b") == ""
    for other in ("coder-8", "/a", "/a/b/", "/a/b/c", "coder-7x", "coder", "Coder-7"):
        assert "is for workload" in why(sub=other)
    assert why(now=NOW + 59.999) == ""
    assert "has expired, at 2030-03-17T17:47:40Z" in why(now=NOW + 60)
    assert why(now=NOW - SKEW_S) == ""
    assert "does not hold before" in why(now=NOW - SKEW_S - 0.001)
    assert why(nbf=NOW + 50 + SKEW_S, exp=NOW + 500, now=NOW + 50) == ""
    assert "does not hold before" in why(nbf=NOW + 51 + SKEW_S, exp=NOW + 500, now=NOW + 50)
    future = {"iat": NOW + 61 + SKEW_S, "exp": NOW + 500}
    assert "does not hold before" in why(**future)
    assert "does not hold before" in why(nbf=1, **future)  # nor does it hold before it was issued
    assert why(nbf=1) == ""
    assert why(exp=NOW + 86_400) == ""
    assert "within 24 hours" in why(exp=NOW + 86_401)


def test_no_names_are_no_workload() -> None:
    """And what a sentence quotes cannot move a terminal's cursor."""
    assert "is for workload" in why(names=())
    assert why(names=("\x1b[2J",)).isprintable()


def test_a_subject_can_be_read_before_it_is_believed(orchestrator: Orchestrator) -> None:
    """For `exeat run`, which registers under that name and leaves the checking to the agent."""
    token = orchestrator.token()
    assert claimed_subject(token[:-4] + "AAAA") == SUBJECT


@given(some.text(max_size=200) | some.binary(max_size=200).map(lambda raw: f"{encoded(raw)}.{encoded(raw)}.AAAA"))
def test_anything_is_a_token_or_refused_with_a_sentence(text: str) -> None:
    """Never by another error."""
    said = ""
    try:
        open_token(text)
    except ValueError as error:
        said = str(error)
    assert said.isprintable()


JSON = some.recursive(
    some.none() | some.booleans() | some.floats() | some.integers() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(some.dictionaries(some.sampled_from([*GOOD, "nbf", "user", "tool", "run"]), JSON))
def test_any_claims_are_read_or_refused_with_a_sentence(changed: dict[str, object]) -> None:
    """And what is read can be shown and kept everywhere."""
    try:
        read = read_claims(json.dumps({**GOOD, **changed}).encode())
        said = [read.subject, read.session.session, read.session.user, why_not(read, "exeat", ("x",), time.time_ns())]
    except ValueError as error:
        said = [str(error)]
    assert all(one.isprintable() for one in said)


def test_the_header_of_the_tests_is_that_of_pyjwt() -> None:
    """So that what they refuse is refused for what they changed."""
    key = Ed25519PrivateKey.generate()
    assert jwt.get_unverified_header(jwt.encode({}, key, algorithm="EdDSA")) == HEADER
