"""Verdicts are written and read back without a loss, and what is no verdict is refused with a sentence."""

import json
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeat.core.verdict_reading import read_line
from exeat.core.verdict_text import JUDGED_NS_MAX, json_line, protocol_word
from exeat.core.who_text import TEXTS
from exeat.errors import ExeatError
from exeat.model.identity import Who
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict
from unit.record_words import any_record

UNDECODED = [chr(number) for number in range(0xDC80, 0xDD00)]  # what os.fsdecode() makes of bytes that are no text
texts = st.text() | st.text(st.sampled_from([*UNDECODED, '"', "\\", "\n", "\x7f", "é", "\u2028", "😀"]))
addresses = st.builds(IPv4Address, st.integers(0, 2**32 - 1)) | st.builds(IPv6Address, st.integers(0, 2**128 - 1))
sizes = st.integers(0, 2**64 - 1)
ports = st.integers(0, 65535)
whos = st.builds(
    Who,
    **dict.fromkeys(TEXTS, texts),
    labels=st.dictionaries(texts, texts, max_size=3).map(lambda labels: tuple(labels.items())),
)
records = st.builds(
    Record,
    time_ns=st.integers(0, 253_402_300_799_999_999_999),  # to the end of the year 9999
    verdict=st.sampled_from(Verdict),
    reason=st.sampled_from(Reason),
    hook=texts,
    workload=texts,
    policy=texts,
    rule=st.none() | texts,
    process=st.builds(Process, sizes, texts, sizes),
    protocol=ports,
    address=st.none() | addresses,
    port=ports,
    source=st.none() | addresses,
    source_port=ports,
    name=st.none() | texts,
    bytes=sizes,
    detail=sizes,
    judged_ns=st.integers(0, JUDGED_NS_MAX),
    count=sizes,
    evidence=st.none() | texts,
    who=st.none() | whos,
)


def by_json(record: Record) -> str:
    """The same line as the standard library writes it."""
    seconds, nanoseconds = divmod(record.time_ns, 1_000_000_000)
    when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    ends = {
        "destination": (record.address, record.port),
        "source": (record.source, record.source_port),
    }
    line = {
        "time": f"{when}.{nanoseconds:09d}Z",
        "verdict": record.verdict.name,
        "reason": record.reason.word,
        "hook": record.hook,
        "workload": record.workload,
        "policy": record.policy,
        "rule": record.rule,
        "process": {"pid": record.process.pid, "comm": record.process.comm, "uid": record.process.uid},
        "protocol": protocol_word(record.protocol),
        **{key: end[0] and {"address": str(end[0]), "port": end[1]} for key, end in ends.items()},
        "name": record.name,
        "bytes": record.bytes,
        "detail": record.detail or None,
        "judged_us": round(record.judged_ns / 1000, 3),
        "count": record.count,
        "evidence": record.evidence,
        "who": who_fields(record.who) if record.who else None,
    }
    return json.dumps(line, separators=(",", ":"))


def who_fields(who: Who) -> dict[str, Any]:
    """What is not empty."""
    told = {key: text for key in TEXTS if (text := getattr(who, key))}
    return told | ({"labels": dict(who.labels)} if who.labels else {})


def altered(**keys: Any) -> str:
    """A good line with other values; `...` takes a key out."""
    line = json.loads(json_line(any_record())) | keys
    return json.dumps({key: value for key, value in line.items() if value is not ...})


def is_read_or_refused(text: str) -> bool:
    """Whether that is all that happens; an error says where."""
    try:
        return isinstance(read_line(text, "log:1"), Record)
    except ExeatError as error:
        return str(error).startswith("log:1: ")


@given(records)
def test_a_line_is_what_the_standard_library_would_write(record: Record) -> None:
    """Byte for byte, whatever a workload calls itself."""
    assert json_line(record) == by_json(record)
    assert json_line(record).isascii()
    assert "\n" not in json_line(record)


@given(records)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    """Only a port without an address is not in a line."""
    found = read_line(json_line(record), "log:1")
    assert json_line(found) == json_line(record)
    assert found == any_record(
        **{key: getattr(record, key) for key in Record.__dataclass_fields__}
        | ({} if record.address else {"port": 0})
        | ({} if record.source else {"source_port": 0})
    )


def test_keys_of_a_newer_version_and_of_the_log_are_passed_over() -> None:
    """Fields are only ever added."""
    assert read_line(altered(seq=7, chain="00", something={"new": [1]}), "log:1") == any_record()


def test_keys_that_were_added_later_may_be_missing() -> None:
    """And then are as if nothing had been said; the others may not."""
    record = any_record(count=3, evidence="e")
    assert read_line(json_line(record), "log:1") == record
    assert read_line(altered(count=..., evidence=...), "log:1") == any_record()
    with pytest.raises(ExeatError, match=r"^log:1: there is no `policy`, which every verdict has$"):
        read_line(altered(policy=...), "log:1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no line of JSON"),
        ("{", "no line of JSON"),
        ("[]", "a verdict is a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"pid":' + "9" * 5000 + "}", "Exceeds the limit"),
        ('{"time":1,"time":2}', "the key `time` stands there twice"),
        ('{"bytes":NaN}', "NaN is no number in JSON"),
        (altered(time="yesterday"), "not a time like"),
        (altered(time="2026-11-21T07:46:14Z"), "not a time like"),
        (altered(time="2026-02-30T07:46:14.000000000Z"), "which no calendar has"),
        (altered(time="２026-11-21T07:46:14.417765543Z"), "not a time like"),
        (altered(time=5), "`time` is not a text"),
        (altered(verdict="MAYBE"), "`verdict` is `MAYBE`, which this version"),
        (altered(reason="NOT_TLS"), "`reason` is `NOT_TLS`, which this version"),
        (altered(reason="\x1b[2J"), r"`\\x1b\[2J`"),
        (altered(rule=7), "`rule` is not a text or null"),
        (altered(process=None), "`process` is not an object"),
        (altered(process={"pid": -1, "comm": "", "uid": 0}), "`pid` is not between 0 and"),
        (altered(process={"pid": True, "comm": "", "uid": 0}), "`pid` is not a whole number"),
        (altered(process={"pid": 1, "comm": "x"}), "there is no `uid`"),
        (altered(protocol="06"), "`protocol` is `06`"),
        (altered(protocol="6"), "`protocol` is `6`"),
        (altered(protocol="99999"), "`protocol` is `99999`"),
        (altered(destination="203.0.113.1"), "`destination` is not an object or null"),
        (altered(destination={"address": "203.0.113", "port": 1}), "`203.0.113` is no address"),
        (altered(destination={"address": "fe80::1%\x1b[2J", "port": 1}), r"`fe80::1%\\x1b\[2J` is no address"),
        (altered(destination={"address": "203.0.113.1", "port": 65536}), "`port` is not between 0 and 65535"),
        (altered(bytes=1.0), "`bytes` is not a whole number"),
        (altered(bytes=2**64), "`bytes` is not between"),
        (altered(judged_us="1"), "`judged_us` is not a number"),
        (altered(judged_us=True), "`judged_us` is not a whole number"),
        (altered(judged_us=1e300), "no time that a judgement could take"),
        (altered(judged_us=-0.5), "no time that a judgement could take"),
        (altered(judged_us=-1), "`judged_us` is not between 0 and"),
        (json_line(any_record()).replace('"judged_us":0.001', '"judged_us":1e999'), "no time that a judgement could"),
    ],
)
def test_what_is_no_verdict_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    """Where it stands comes first."""
    with pytest.raises(ExeatError, match=sentence) as raised:
        read_line(text, "verdicts.jsonl:12")
    assert str(raised.value).startswith("verdicts.jsonl:12: ")
    assert "\n" not in str(raised.value)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_is_a_record_or_an_error(text: str) -> None:
    """Nothing else is ever raised."""
    assert is_read_or_refused(text)


@given(st.data())
def test_a_line_with_any_one_value_replaced_is_a_record_or_an_error(data: st.DataObject) -> None:
    """Of another kind, at the top or in the objects."""
    line = json.loads(json_line(any_record()))
    anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({})
    holder = data.draw(st.sampled_from([line, line["process"], line["destination"]]))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(anything)
    assert is_read_or_refused(json.dumps(line))
