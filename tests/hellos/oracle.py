"""Says what a stream's ClientHello must be judged to be: the plain, slow twin of the kernel's parser.

It was written from RFC 8446 and RFC 6066, never from the C, so that the two can be compared. Bytes are judged in their
order. Where an implementation may well see two problems in either order, a Reading names both and the test accepts any.
"""

import itertools
import re
from dataclasses import dataclass

from exeat.model.verdicts import Reason

MAX_RECORD = 16384  # RFC 8446, 5.1: the longest plaintext record
MAX_MESSAGE = 16384  # exeat's own: DESIGN.md promises to judge hellos up to 16 KiB ...
MAX_RECORDS = 64  # ... and 64 records
MAX_EXTENSIONS = 64  # exeat's own; real clients send up to 20
MAX_NAME = 251  # exeat's own: the longest name its tables can hold
MAX_LABEL = 63  # RFC 1035

HANDSHAKE, CLIENT_HELLO = 22, 1
SERVER_NAME, EARLY_DATA, ECH_TYPES = 0, 42, (0xFE0D, 0xFFCE)


@dataclass(frozen=True)
class Reading:
    """What a stream is.

    No reasons and not incomplete: a well-formed hello with this (lower-case) name. With `incomplete`, waiting for more
    bytes is right, and so is a denial for any of `reasons`. The flags are told of hellos whose structure is sound.
    """

    reasons: frozenset[Reason] = frozenset()
    name: str | None = None
    has_ech: bool = False
    has_early_data: bool = False
    incomplete: bool = False

    @property
    def is_allowed(self) -> bool:
        """The form is sound: now the name decides."""
        return not self.reasons and not self.incomplete

    def accepts(self, reason: Reason | None) -> bool:
        """Would this be a right judgement? None stands for "the form is sound"."""
        return self.is_allowed if reason is None else reason in self.reasons


class DeniedError(Exception):
    """The hello is refused, for any of these reasons."""

    def __init__(self, *reasons: Reason):
        super().__init__(*reasons)
        self.reasons = frozenset(reasons)


class IncompleteError(DeniedError):
    """More bytes are needed; a stricter reader may already refuse for these reasons."""


class Cursor:
    """Takes fields from bytes; a field that does not fit is a denial for the cursor's reason."""

    def __init__(self, data: bytes, reason: Reason):
        self.data, self.reason = data, reason

    def take(self, count: int) -> bytes:
        """Take so many bytes."""
        if count > len(self.data):
            raise DeniedError(self.reason)
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def number(self, width: int) -> int:
        """Take a number of so many bytes."""
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        """Take bytes that a length of so many bytes announces."""
        return self.take(self.number(width))

    def check(self, condition: bool) -> None:
        """Refuse unless it holds."""
        if not condition:
            raise DeniedError(self.reason)


def judge_hello(stream: bytes, *, ech_allowed: bool = False) -> Reading:
    """Judge the ClientHello that a client's stream begins with; what follows its last record is not looked at."""
    try:
        message, pending, has_whole_record = join_records(stream)
    except DeniedError as denial:
        return Reading(reasons=denial.reasons, incomplete=isinstance(denial, IncompleteError))
    reading = judge_body(message[4:], ech_allowed)
    if not pending:
        return reading
    graver = reading.reasons - {Reason.SNI_MISSING, Reason.ECH}  # these two are told only when nothing else is wrong
    return Reading(reasons=graver | pending, incomplete=not has_whole_record)


def join_records(stream: bytes) -> tuple[bytes, frozenset[Reason], bool]:
    """Join records into the first handshake message; say what else is wrong, and whether its last record is whole."""
    message, at = b"", 0
    for count in itertools.count(1):
        early = {Reason.NOT_TLS} if message and message[0] != CLIENT_HELLO else set()
        if count > MAX_RECORDS:
            early.add(Reason.HELLO_TOO_MANY_RECORDS)
        try:
            length = judge_record_header(stream[at : at + 5], is_first=count == 1)
            if count > MAX_RECORDS:
                raise DeniedError
        except DeniedError as denial:
            raise type(denial)(*early, *denial.reasons) from denial
        payload = stream[at + 5 : at + 5 + length]
        room = len(message) + length
        message += payload
        at += 5 + length
        pending: frozenset[Reason] = frozenset()
        if len(message) >= 4:
            size = judge_message_header(message)
            if room > size:
                pending = frozenset({Reason.HELLO_TRAILING_BYTES})
            if len(message) >= size:
                return message[:size], pending, len(payload) == length
        elif message and message[0] != CLIENT_HELLO:  # waiting for the length behind the type is right, too
            pending = frozenset({Reason.NOT_TLS})
        if len(payload) < length:
            raise IncompleteError(*pending)
    raise AssertionError("unreachable: records are counted for ever")


def judge_record_header(header: bytes, is_first: bool) -> int:
    """Judge up to five bytes of record header; give the record's length."""
    if header and header[0] != HANDSHAKE:
        if not is_first:
            raise DeniedError(Reason.HELLO_INTERLEAVED)
        if header[0] & 0x80 and len(header) < 3:
            raise IncompleteError
        is_sslv2 = header[0] & 0x80 and header[2] == CLIENT_HELLO
        raise DeniedError(Reason.SSLV2_HELLO if is_sslv2 else Reason.NOT_TLS)
    if len(header) >= 3 and (header[1] != 3 or header[2] > 4):
        raise DeniedError(Reason.TLS_VERSION)
    if len(header) < 5:
        raise IncompleteError
    length = int.from_bytes(header[3:5], "big")
    if length == 0:
        raise DeniedError(Reason.HELLO_EMPTY_RECORD)
    if length > MAX_RECORD:
        raise DeniedError(Reason.HELLO_TOO_LONG)
    return length


def judge_message_header(message: bytes) -> int:
    """Judge the handshake message's four bytes of header; give its size with them."""
    if message[0] != CLIENT_HELLO:
        raise DeniedError(Reason.NOT_TLS)
    size = 4 + int.from_bytes(message[1:4], "big")
    if size > MAX_MESSAGE:
        raise DeniedError(Reason.HELLO_TOO_LONG)
    return size


def judge_body(body: bytes, ech_allowed: bool) -> Reading:
    """Judge a ClientHello's body."""
    try:
        reading = judge_extensions(take_extension_block(body))
    except DeniedError as denial:
        return Reading(reasons=denial.reasons)
    reasons = set()
    if reading.name is None:
        reasons.add(Reason.SNI_MISSING)
    if reading.has_ech and not ech_allowed:
        reasons.add(Reason.ECH)
    return Reading(frozenset(reasons), reading.name, reading.has_ech, reading.has_early_data)


def take_extension_block(body: bytes) -> bytes:
    """Judge what stands before the extensions (RFC 8446, 4.1.2), and give them."""
    hello = Cursor(body, Reason.HELLO_MALFORMED)
    if hello.take(2)[0] != 3:
        raise DeniedError(Reason.TLS_VERSION)
    hello.take(32)
    hello.check(len(hello.vector(1)) <= 32)
    ciphers = hello.vector(2)
    hello.check(len(ciphers) >= 2 and len(ciphers) % 2 == 0)
    hello.check(hello.vector(1)[-1:] == b"\0")  # TLS 1.3: alone; before, clients put "no compression" last
    if not hello.data:
        return b""
    block = hello.vector(2)
    hello.check(not hello.data)
    return block


def judge_extensions(block: bytes) -> Reading:
    """Walk the extensions in order; a bad name may be told before or after what is wrong behind it."""
    rest = Cursor(block, Reason.HELLO_MALFORMED)
    seen: set[int] = set()
    faults: set[Reason] = set()
    name = None
    while rest.data:
        problems = {Reason.EXTENSIONS_TOO_MANY} if len(seen) == MAX_EXTENSIONS else set()
        try:
            kind = rest.number(2)
            if kind in seen:
                problems.add(Reason.SNI_SEVERAL if kind == SERVER_NAME else Reason.EXTENSION_DUPLICATE)
            seen.add(kind)
            data = rest.vector(2)
            if kind == SERVER_NAME and not problems:
                name = read_server_name(data)
                faults |= name_faults(name)
        except DeniedError as denial:
            problems |= denial.reasons
        if problems:
            raise DeniedError(*problems, *faults)
    if faults:
        raise DeniedError(*faults)
    text = None if name is None else name.decode("ascii").lower()
    return Reading(name=text, has_ech=not seen.isdisjoint(ECH_TYPES), has_early_data=EARLY_DATA in seen)


def read_server_name(data: bytes) -> bytes:
    """Judge the structure of a server_name extension (RFC 6066, 3), and give the one name in it."""
    outer = Cursor(data, Reason.SNI_MALFORMED)
    names = Cursor(outer.vector(2), Reason.SNI_MALFORMED)
    outer.check(not outer.data)
    if names.number(1) != 0:
        problems = {Reason.SNI_NOT_HOST_NAME}
        if len(names.data) < 2:  # no room for a length behind the type
            problems.add(Reason.SNI_MALFORMED)
        raise DeniedError(*problems)
    name = names.vector(2)
    problems = set() if name else {Reason.SNI_MALFORMED}
    if names.data:
        problems.add(Reason.SNI_SEVERAL)
        if len(name) > MAX_NAME:
            problems.add(Reason.SNI_TOO_LONG)
        if len(names.data) < 3 or int.from_bytes(names.data[1:3], "big") != len(names.data) - 3:
            problems.add(Reason.SNI_MALFORMED)  # what follows is no sound entry
    if problems:
        raise DeniedError(*problems)
    return name


def name_faults(name: bytes) -> set[Reason]:
    """Name everything that keeps bytes from being a host name."""
    faults = set()
    if len(name) > MAX_NAME:
        faults.add(Reason.SNI_TOO_LONG)
    if not re.fullmatch(rb"[A-Za-z0-9.-]*", name):
        faults.add(Reason.SNI_BAD_CHARACTER)
    labels = name.lower().split(b".")
    for label in labels:
        if not label or len(label) > MAX_LABEL or label.startswith(b"-") or label.endswith(b"-"):
            faults.add(Reason.SNI_BAD_LABEL)
    if re.fullmatch(rb"[0-9]+|0x[0-9a-f]*", labels[-1]):
        faults.add(Reason.SNI_ADDRESS)
    return faults
