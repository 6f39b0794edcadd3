"""Host patterns: what each text means, and what each refusal says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.names import parse_host_pattern
from exeat.core.public_suffixes import why_wide
from exeat.model.names import NAME_MAX


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("**.Example.com.", "**.example.com"),
        ("localhost", "localhost"),
        ("db", "db"),
        ("github.io", "github.io"),
        ("*.example.github.io", "*.example.github.io"),
        ("**.www.ck", "**.www.ck"),
        ("1.example.com", "1.example.com"),
        ("3com.com", "3com.com"),
        ("r3---sn-4g5e6nsk.googlevideo.com", "r3---sn-4g5e6nsk.googlevideo.com"),
        ("a" * 63 + ".com", "a" * 63 + ".com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("straße.de", "xn--strae-oqa.de"),  # IDNA 2003 would make it strasse.de, which is another domain
        ("例え。テスト。", "xn--r8jz45g.xn--zckzah"),
        ("ａｐｉ.example.com", "api.example.com"),
    ],
)
def test_a_name_is_compared_in_one_form(text: str, canonical: str) -> None:
    """Lower-case A-labels, one trailing dot dropped."""
    assert str(parse_host_pattern(text)) == canonical


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a host name is empty"),
        (".", "an empty label"),
        ("example.com..", "an empty label"),
        ("a..example.com", "an empty label"),
        (".example.com", "an empty label"),
        ("*.", "an empty label"),
        (" example.com", "has blanks"),
        ("a b.com", "has blanks"),
        ("a.com\n", "has blanks"),
        ("*", "would allow every name"),
        ("**", "would allow every name"),
        ("*example.com", "wildcard where none may stand"),
        ("api.*.com", "wildcard where none may stand"),
        ("*.*.example.com", "wildcard where none may stand"),
        ("***.example.com", "wildcard where none may stand"),
        ("example.*", "wildcard where none may stand"),
        ("＊.example.com", "no international host name"),
        ("https://api.example.com/v1", "write only the host: `api.example.com`"),
        ("https://me:secret@api.example.com:8443", "write only the host: `api.example.com`"),
        ("api.example.com:443", "write only the host: `api.example.com`"),
        ("api.example.com/v1", "write only the host: `api.example.com`"),
        ("*.example.com:443", "write only the host: `*.example.com`"),
        ("api.example.com?", "write only the host: `api.example.com`"),
        ("me@example.com", "write only the host: `example.com`"),
        ("://", "write only the host: `api.example.com`"),
        ("10.0.0.1", "write it under `cidrs`"),
        ("10.0.0.1:443", "write it under `cidrs`"),
        ("http://10.0.0.1/", "write it under `cidrs`"),
        ("10.0.0.1/8", "write it under `cidrs`"),
        ("10.0.0.0/8", "write it under `cidrs`"),
        ("::1", "write it under `cidrs`"),
        ("[2001:db8::1]", "write it under `cidrs`"),
        ("[2001:db8::1]:443", "write it under `cidrs`"),
        ("127.1", "ends in a number"),
        ("0x7f000001", "ends in a number"),
        ("1.2.3.4.5", "ends in a number"),
        ("10.0.0.1.", "ends in a number"),
        ("１２７.0.0.1", "ends in a number"),
        ("*.0.0.1", "ends in a number"),
        ("443", "ends in a number"),
        ("_dmarc.example.com", "an underscore"),
        ("ex!ample.com", "no host name has"),
        ("a,b.com", "no host name has"),
        ("-a.example.com", "begins or ends with a hyphen"),
        ("a-.example.com", "begins or ends with a hyphen"),
        ("a" * 64 + ".com", "a label of 64 characters"),
        ("xn--a.com", "no international host name"),
        ("xn--.com", "no international host name"),
        ("a\u0300\u202e.com", "no international host name"),
        ("a\u2044b.com", "no international host name"),
        ("☃.example", "no international host name"),
        ("a" * 2000, "is 2000 characters long"),
    ],
)
def test_what_is_no_host_name_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    """Each says what to write instead."""
    with pytest.raises(ValueError, match="^[^\n]+$") as refusal:
        parse_host_pattern(text)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "*.com",
        "**.com",
        "**.co.uk",
        "*.github.io",
        "**.s3.amazonaws.com",
        "*.compute.amazonaws.com",
        "*.foo.ck",
        "*.xn--p1ai",
        "*.рф",
        "*.internal",
        "*.COM.",
    ],
)
def test_a_wildcard_over_a_public_suffix_is_refused(text: str) -> None:
    """Anybody can get a name below it, an attacker too. A top-level name that the list lacks counts as one."""
    with pytest.raises(ValueError, match="anybody can get a name below"):
        parse_host_pattern(text)


def test_the_longest_name_is_as_long_as_the_tables_hold() -> None:
    """One character more is refused."""
    name = ".".join(["a" * 49] * 5)
    assert len(name) == NAME_MAX - 2
    assert parse_host_pattern("b." + name).name == "b." + name
    with pytest.raises(ValueError, match="252 characters long in A-labels"):
        parse_host_pattern("bb." + name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("**.example.com", "every name below `example.com`"),
        ("**.amazonaws.com", "where anybody can get one"),
        ("**.api.example.com", None),
        ("*.example.com", None),
        ("example.com", None),
    ],
)
def test_a_wide_wildcard_is_warned_about(text: str, sentence: str | None) -> None:
    """Whole domains at any depth, and domains with strangers' names in them."""
    warning = why_wide(parse_host_pattern(text))
    assert (warning is None) if sentence is None else (warning is not None and sentence in warning)


def _meaning_or_sentence(text: str) -> str:
    try:
        return str(parse_host_pattern(text))
    except ValueError as error:
        if type(error) is not ValueError:  # a UnicodeError of IDNA's own, say
            raise AssertionError(f"{type(error)} for {text!r}") from error
        return str(error)


@given(st.text(max_size=60) | st.text("a*.-:/[]1x@ü。", max_size=20))
def test_any_text_is_a_pattern_or_a_sentence(text: str) -> None:
    """And a pattern, written out, reads as itself; a sentence cannot move the cursor."""
    answer = _meaning_or_sentence(text)
    assert answer.isprintable()
    assert " " in answer or str(parse_host_pattern(answer)) == answer
