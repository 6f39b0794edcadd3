"""The oracle that the kernel's parser is compared with is itself compared with a table, real clients and OpenSSL."""

import ssl
from collections import Counter
from dataclasses import dataclass, field

import pytest

from exeat.model.verdicts import Reason
from hellos.build import Hello, every, records, writes
from hellos.corpus import flights
from hellos.generate import Case, cases, length_fields, table_cases
from hellos.oracle import Reading, judge_hello
from hellos.table import Row, rows

TABLE = list(rows())
SEED = 20261121


@dataclass
class OpenSSL:
    """The second reader: a TLS server that stops once it has read the name."""

    context: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    names: list[str | None] = field(default_factory=list)

    def __post_init__(self):
        self.context.set_ciphers("ALL:@SECLEVEL=0")
        self.context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        self.context.sni_callback = self.note

    def note(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        """Note the name, None for none, and refuse the handshake."""
        self.names.append(name)
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE

    def read(self, stream: bytes) -> list[str | None]:
        """Give the names that OpenSSL read: one, or none at all if it came to no whole hello that it likes."""
        self.names.clear()
        incoming = ssl.MemoryBIO()
        incoming.write(stream)
        with pytest.raises(ssl.SSLError):  # SSLWantReadError is one, too
            self.context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
        return [name and name.lower() for name in self.names]


@pytest.fixture(scope="module")
def openssl() -> OpenSSL:
    """One context serves all: every stream gets a connection of its own."""
    return OpenSSL()


def is_sound(reading: Reading) -> bool:
    """Is the form sound, but for ECH?"""
    return reading.name is not None and not reading.incomplete and reading.reasons <= {Reason.ECH}


def label_of(case: Row | Case) -> str:
    """Label a test with printable characters."""
    return case.label.encode("unicode_escape").decode()


@pytest.mark.parametrize("row", TABLE, ids=label_of)
def test_a_hand_written_hello_gets_the_judgement_that_is_written_beside_it(row: Row):
    """Expectations in the table are never computed by the oracle."""
    reading = judge_hello(row.stream)
    assert (reading.reasons, reading.name, reading.incomplete) == (row.reasons, row.name, row.incomplete)


def test_the_table_has_a_row_of_its_own_for_every_word_of_the_hello_block():
    """Each reason from NOT_TLS to SNI_ADDRESS is the only acceptable one somewhere."""
    told = {reason for row in TABLE if len(row.reasons) == 1 and not row.incomplete for reason in row.reasons}
    assert told == {reason for reason in Reason if Reason.NOT_TLS <= reason <= Reason.SNI_ADDRESS}


def test_every_real_client_is_read_with_its_name():
    """ECH apart, no real client that sends a name is refused."""
    for flight in flights():
        reading = judge_hello(flight.stream, ech_allowed=True)
        assert (reading.name, reading.is_allowed) == (flight.sni, flight.sni is not None), flight.client


def test_a_real_client_without_a_name_is_refused_for_just_that():
    """The corpus has three: openssl s_client -noservername."""
    nameless = [flight for flight in flights() if flight.sni is None]
    assert len(nameless) == 3
    assert all(judge_hello(flight.stream).reasons == {Reason.SNI_MISSING} for flight in nameless)


def test_real_clients_with_ech_are_refused_for_ech_unless_the_rule_allows_it():
    """Every browser that greases ECH is such a client."""
    with_ech = [flight for flight in flights() if judge_hello(flight.stream).has_ech]
    assert len(with_ech) == 51
    for flight in with_ech:
        assert judge_hello(flight.stream).reasons == {Reason.ECH}
        assert judge_hello(flight.stream, ech_allowed=True).accepts(None)


def test_a_hello_with_ech_and_no_name_lacks_the_name_even_where_ech_is_allowed():
    """Allowing ECH allows nothing else."""
    row = next(row for row in TABLE if row.label == "ECH and no name")
    assert judge_hello(row.stream, ech_allowed=True).reasons == {Reason.SNI_MISSING}


def test_early_data_is_told():
    """Its announcement keeps the socket watched."""
    assert judge_hello(Hello(psk=b"ticket", early_data=True).stream()).has_early_data
    assert not judge_hello(Hello(psk=b"ticket").stream()).has_early_data


def test_a_hello_is_incomplete_until_its_last_byte():
    """No prefix of a good hello is refused, and none is allowed."""
    for stream in (flights()[0].stream, Hello(grease=True).stream(range(1, 60)), Hello().stream([4])):
        for size in range(len(stream)):
            assert judge_hello(stream[:size]) == Reading(incomplete=True)
        assert judge_hello(stream).accepts(None)


def test_what_is_refused_early_stays_refused_and_is_never_allowed_on_the_way():
    """A definite denial of a prefix is a denial of the whole."""
    for row in TABLE:
        if row.reasons and not row.incomplete and len(row.stream) < 2000:
            for size in range(len(row.stream)):
                before = judge_hello(row.stream[:size])
                assert not before.is_allowed
                assert before.incomplete or before.reasons & row.reasons or before.reasons == {Reason.NOT_TLS}, size


def test_how_a_hello_is_cut_into_records_changes_nothing():
    """Every size of record that needs no more than 64 of them."""
    message = Hello(grease=True, alpn=()).message()
    whole = judge_hello(b"".join(records(message)))
    for size in range(-(-len(message) // 64), len(message)):
        assert judge_hello(b"".join(records(message, every(message, size), (0x0301, 0x0303)))) == whole


def test_writes_are_the_stream_again():
    """Cutting loses nothing and writes nothing empty."""
    stream = Hello().stream()
    pieces = writes(stream, [0, 5, 5, 9, len(stream), 99999])
    assert [len(piece) for piece in pieces] == [5, 4, len(stream) - 9]
    assert b"".join(pieces) == stream


def test_length_fields_are_found_where_lengths_are():
    """The last one ends the message, or lying about lengths would lie about something else."""
    message = Hello().message()
    assert {int.from_bytes(message[at : at + width], "big") for at, width in length_fields(message)} >= {
        len(message) - 4,
        32,
        len("api.allowed.test"),
        len("api.allowed.test") + 3,
        len("api.allowed.test") + 5,
    }


def test_a_seed_gives_the_same_cases_again():
    """A failure elsewhere can be repeated from the number in its label."""
    assert list(cases(3, 50)) == list(cases(3, 50))
    assert list(cases(3, 50)) != list(cases(4, 50))


def test_generated_cases_are_read_as_they_were_made_and_cover_every_word():
    """Sound ones know their reading from their making; all reasons come up."""
    told: Counter[Reason] = Counter()
    for case in cases(SEED, 3000):
        reading = judge_hello(case.stream)
        assert reading == case.reading, case.label
        told.update(reading.reasons)
    assert {reason for reason in Reason if Reason.NOT_TLS <= reason <= Reason.SNI_ADDRESS} == set(told)
    assert [case.label for case in table_cases() if judge_hello(case.stream) != case.reading] == []


def test_openssl_reads_the_same_name_in_every_real_flight(openssl: OpenSSL):
    """None is a name here, too: OpenSSL tells of a hello without one."""
    for flight in flights():
        assert openssl.read(flight.stream) == [judge_hello(flight.stream).name] == [flight.sni], flight.client


def test_openssl_never_reads_another_name_where_the_oracle_finds_one(openssl: OpenSSL):
    """Sound by making: the same name. After a mutation: the same, or none, where OpenSSL wants more than we do."""
    read = refused = 0
    for case in [*table_cases(), *cases(SEED, 2000)]:
        if is_sound(case.reading):
            names = openssl.read(case.stream)
            assert names in ([case.reading.name], *([] if case.is_made_sound else [[]])), case.label
            read, refused = read + bool(names), refused + (not names)
    assert read > 700
    assert refused < 100


def test_openssl_never_reads_a_name_while_the_oracle_still_waits(openssl: OpenSSL):
    """Or a server might already have answered a hello that we take for half a one."""
    waiting = [case for case in [*table_cases(), *cases(SEED, 3000)] if case.reading == Reading(incomplete=True)]
    assert len(waiting) > 100
    for case in waiting:
        assert openssl.read(case.stream) == [], case.label
