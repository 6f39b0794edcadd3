"""Tricks by which a sender shows a watcher other bytes than the server will read: section C of the catalogue.

Each gets a fake and a real hello of one length that differ in the name alone, opens its connection, and sends; who
plays it then pushes the real one as every TCP does. `reads` is what a Linux server reads where nobody judges.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from guest.packets import ACK, FIN, PSH, RST, SYN, URG, Offload, RawClient, Segment, spread
from hellos.build import Hello

GOOD, EVIL = "good.test", "evil.test"
GOOD_HELLO, EVIL_HELLO = Hello(GOOD).stream(), Hello(EVIL).stream()
NAME = GOOD_HELLO.find(GOOD.encode())
FAR = 10 << 20
MD5, AO, UNKNOWN = b"\x13\x12" + bytes(16), b"\x1d\x10\x00\x00" + bytes(12), b"\xfd\x04ab"

Play = Callable[[RawClient, bytes, bytes], None]


@dataclass(frozen=True)
class Trick:
    """One of them. `whole`: it can be told only of frames that their sender completed.

    `ends`: nothing passes after it, whatever follows, for a guest that means well does not do it.
    """

    play: Play
    reads: str
    whole: bool = False
    ends: bool = False


def sends(make: Callable[[bytes, bytes], list[Segment]]) -> Play:
    """A trick of plain segments after a plain handshake."""

    def play(client: RawClient, fake: bytes, real: bytes) -> None:
        client.connect()
        client.send(*make(fake, real))

    return play


def fake_first(**how: int | bytes | None) -> Play:
    """The fake is special in one way, the real one in none."""
    return sends(lambda fake, real: [Segment(fake, **how), Segment(real)])  # type: ignore[arg-type]


def before_it(segment: Segment) -> Play:
    """A segment that a careless watcher takes for the connection's end, then the real hello."""
    return sends(lambda _fake, real: [segment, Segment(real)])


def with_data_in_the_syn(client: RawClient, fake: bytes, _real: bytes) -> None:
    """Without Fast Open a server ignores them."""
    if not client.connect(data=fake):
        client.forget()
        client.connect()


def with_a_cookie_and_data_in_the_syn(client: RawClient, fake: bytes, _real: bytes) -> None:
    """A Fast Open cookie that the server never gave."""
    if not client.connect(data=fake, extra=b"\x22\x0a" + bytes(8)):
        client.forget()
        client.connect()


def longer_than_its_packet(client: RawClient, fake: bytes, real: bytes) -> None:
    """What follows the packet in its frame is nobody's."""
    client.connect()
    client.link.send(client.frame(Segment(real[:NAME])) + fake[NAME:])
    client.send(Segment(real[NAME:], at=NAME))


def byte_by_byte_with_fakes(client: RawClient, fake: bytes, real: bytes) -> None:
    """Each byte is first said by a fake that dies on the way."""
    client.connect()
    for at in range(len(real)):
        client.send(Segment(fake[at : at + 1], at=at, ttl=1), Segment(real[at : at + 1], at=at))


def urgent_inside(client: RawClient, _fake: bytes, real: bytes) -> None:
    """A server that does not ask for urgent bytes reads the stream without them."""
    client.connect()
    data = real[:NAME] + b"X" + real[NAME:]
    client.send(Segment(data, flags=ACK | PSH | URG, urgent=NAME + 1))


def two_lines(client: RawClient, fake: bytes, real: bytes) -> None:
    """After a reset that only a careless watcher believes."""
    client.connect()
    client.send(Segment(flags=RST, at=FAR), Segment(flags=SYN, at=-1), Segment(fake, at=FAR), Segment(real))


NO_STAMP = struct.pack("!BBII", 8, 10, 1, 1)

TRICKS: dict[str, Trick] = {
    "the same place twice": Trick(fake_first(), "fake"),
    "the name's place twice before it is due": Trick(
        sends(lambda fake, real: [Segment(fake[NAME:], NAME), Segment(real[NAME:], NAME), Segment(real[:NAME])]), "fake"
    ),
    "in order over what waits": Trick(sends(lambda fake, real: [Segment(fake[NAME:], NAME), Segment(real)]), "real"),
    "larger over what waits": Trick(
        sends(
            lambda fake, real: [
                Segment(fake[NAME : NAME + 9], NAME),
                Segment(real[NAME - 5 :], NAME - 5),
                Segment(real[: NAME - 5]),
            ]
        ),
        "real",
    ),  # fmt: skip
    "overlap on the left": Trick(
        sends(lambda fake, real: [Segment(fake[: NAME + 20]), Segment(real[NAME - 7 :], NAME - 7)]), "fake"
    ),
    "before the window": Trick(sends(lambda fake, real: [Segment(fake + real, -len(fake))]), "real"),
    "one byte before the window": Trick(sends(lambda fake, real: [Segment(b"\x16" + real, -1)]), "real"),
    "wholly before the window": Trick(fake_first(at=-4000), "real"),
    "beyond the window": Trick(fake_first(at=FAR), "real"),
    "half the numbers away": Trick(fake_first(at=1 << 31), "real"),
    "a bad TCP checksum": Trick(fake_first(tcp_sum=1), "real", whole=True),
    "a bad TCP checksum left to the card": Trick(fake_first(tcp_sum=1, offload=Offload.CHECKSUM), "real", whole=True),
    "a bad IP checksum": Trick(fake_first(ip_sum=1), "real"),
    "an old timestamp": Trick(fake_first(stamp=-100_000), "real"),
    "a timestamp of the future": Trick(fake_first(stamp=1 << 30), "fake"),
    "no timestamp": Trick(fake_first(options=b""), "fake"),
    "no ACK flag": Trick(fake_first(flags=PSH), "real"),
    "no flag": Trick(fake_first(flags=0), "real"),
    "all flags but RST": Trick(fake_first(flags=FIN | SYN | PSH | ACK | URG), "real"),
    "an ACK of what was never sent": Trick(fake_first(ack=100_000), "real"),
    "a very old ACK": Trick(fake_first(ack=-(1 << 24)), "real"),
    "an MD5 signature": Trick(fake_first(options=MD5), "real"),
    "an authentication option": Trick(fake_first(options=AO), "fake"),
    "an unknown option": Trick(fake_first(options=UNKNOWN), "fake"),
    "an option longer than the header": Trick(fake_first(options=b"\xfd\x28ab"), "fake"),
    "data in the SYN": Trick(with_data_in_the_syn, "real"),
    "a cookie and data in the SYN": Trick(with_a_cookie_and_data_in_the_syn, "real"),
    "data in a second SYN": Trick(fake_first(flags=SYN | PSH | ACK), "real"),
    "data in a second SYN, one before": Trick(fake_first(flags=SYN, at=-1), "real"),
    "data in a FIN": Trick(fake_first(flags=FIN | PSH | ACK), "fake"),
    "data in a FIN without ACK": Trick(fake_first(flags=FIN), "real"),
    "data in a RST elsewhere": Trick(fake_first(flags=RST | ACK, at=5000), "real"),
    "a RST in the window": Trick(before_it(Segment(flags=RST, at=1000)), "real"),
    "a RST beyond the window": Trick(before_it(Segment(flags=RST, at=FAR)), "real"),
    "a RST with a bad checksum": Trick(before_it(Segment(flags=RST, tcp_sum=1)), "real", whole=True),
    "a RST that dies on the way": Trick(before_it(Segment(flags=RST, ttl=1)), "real", ends=True),
    "a FIN that is not due": Trick(before_it(Segment(flags=FIN | ACK, at=5000)), "real"),
    "a FIN that dies on the way": Trick(before_it(Segment(flags=FIN | ACK, ttl=1)), "real", ends=True),
    "a second connection's begin": Trick(two_lines, "real", ends=True),
    "urgent bytes inside": Trick(urgent_inside, "real"),
    "dies on the way": Trick(fake_first(ttl=1), "real"),
    "a part dies on the way": Trick(
        sends(lambda fake, real: [Segment(real[:NAME]), Segment(fake[NAME:], NAME, ttl=1), Segment(real[NAME:], NAME)]),
        "real",
    ),
    "byte by byte": Trick(sends(lambda _, real: spread(real, range(len(real)))), "real"),
    "byte by byte, the last first": Trick(sends(lambda _, real: spread(real, range(len(real)))[::-1]), "real"),
    "byte by byte with fakes": Trick(byte_by_byte_with_fakes, "real"),
    "longer than its packet": Trick(longer_than_its_packet, "real", whole=True),
    "a large one behind a fake": Trick(
        sends(
            lambda fake, real: [
                Segment(fake, ttl=1, offload=Offload.SEGMENTS, piece=64),
                Segment(real, offload=Offload.SEGMENTS, piece=64),
            ]
        ),
        "real",
    ),  # fmt: skip
}
