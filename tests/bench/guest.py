"""What a guest behind an interface pays: the same work as in traffic.py, through a veth or a tap and a router."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from bench import traffic
from bench.cost import runs, statistics_on
from bench.guest_place import GUESTS, TAPS, GuestBed, guest_bed
from bench.paired import paired
from bench.place import JUDGED_BY_NAME, OFF, TEN_THOUSAND, Place, compiled
from bench.rows import Bar, Row, p99, row
from exeat.model.verdicts import Reason, Verdict

PROGRAMS = ("on_guest_out", "on_guest_hello", "on_guest_in")
DENIED_WITHIN_MS = 50
DATAGRAMS = 1500  # in a slice
_ARRIVING = 0.99  # of what was sent, or something else was measured


def _of_guests(rows: Iterator[Row]) -> Iterator[Row]:
    return (replace(one, what=f"guest: {one.what}") for one in rows)


@contextlib.contextmanager
def _sent_by_each(bed: GuestBed, packets: int) -> Iterator[None]:
    """An error if our programs did not let out so many packets of each guest meanwhile: it was not they."""
    before = {setting: bed.sent(setting) for setting in bed.workloads}
    yield
    for setting, count in before.items():
        if (sent := bed.sent(setting) - count) < packets:
            raise RuntimeError(f"our programs let out {sent} packets of the guest in {setting!r}, {packets} were due")


@contextlib.contextmanager
def _named_in_each(bed: GuestBed, hellos: int) -> Iterator[None]:
    """The same if not so many hellos of each guest were judged by their names."""
    tables, due = bed.place.guard.tables, hellos * len(JUDGED_BY_NAME)
    before = tables.counter(Verdict.FORWARDED, Reason.NAME_ALLOWED)
    yield
    if (named := tables.counter(Verdict.FORWARDED, Reason.NAME_ALLOWED) - before) < due:
        raise RuntimeError(f"{named} hellos of guests were judged by their names, {due} were due")


@contextlib.contextmanager
def _arriving(bed: GuestBed, packets: int) -> Iterator[None]:
    """The same if not nearly so many packets arrived."""
    before = bed.arrived()
    yield
    if (arrived := bed.arrived() - before) < packets * _ARRIVING:
        raise RuntimeError(f"{arrived} of {packets} packets have arrived")


def connections(place: Place, rounds: int) -> Iterator[Row]:
    """TCP connect and close: three packets of the guest's at least."""
    with guest_bed(place) as bed, _sent_by_each(bed, 3 * 150 * (rounds + 1)):
        yield from _of_guests(traffic.connections(bed, rounds))


def first_flights(place: Place, rounds: int) -> Iterator[Row]:
    """All of a TLS connection's packets, without the cryptography that would hide them; and how many in a second."""
    with guest_bed(place) as bed, _named_in_each(bed, 60 * 2 * (rounds + 1)):
        yield from _of_guests(traffic.first_flights(bed, rounds))
        what = "TLS connections/s, without cryptography"
        yield from _of_guests(traffic.slices(bed, rounds, what, "first 60", 60, Bar(0.9, is_least=True), is_rate=True))


def handshakes(place: Place, rounds: int) -> Iterator[Row]:
    """TLS handshakes by OpenSSL."""
    host = place.tls_host()
    with guest_bed(place) as bed, _named_in_each(bed, 10 * (rounds + 1)):
        clients = {setting: traffic.Handshakes(place.bed, host, at=bed.guest(setting)) for setting in GUESTS}
        found = paired(GUESTS, rounds, lambda setting: clients[setting].times(10), bed.forget_events)
    yield row(f"guest: TLS handshake: {OFF}", found.plain, "us")
    for setting, ratios in found.ratios.items():
        yield row(f"guest: TLS handshake: {setting}", ratios, "x", Bar(1.03))
    for setting, extra in found.extra.items():
        yield row(f"guest: TLS handshake, more at p50: {setting}", extra, "us more", Bar(25))


def bulk(place: Place, rounds: int) -> Iterator[Row]:
    """Bytes a second, out and in: segments of up to 64 KiB pass the interface in one piece."""
    with guest_bed(place) as bed, _sent_by_each(bed, 3 * (rounds + 1)):
        yield from _of_guests(traffic.bulk(bed, rounds))
        bar = Bar(0.97, is_least=True)
        yield from _of_guests(traffic.slices(bed, rounds, "bulk bytes/s, in", "take 60", 0, bar, is_rate=True))


def datagrams(place: Place, rounds: int) -> Iterator[Row]:
    """64-byte datagrams a second, of a guest's kernel through a veth, and as frames written to a tap."""
    bar = Bar(0.85, is_least=True)
    with guest_bed(place) as bed:
        due = DATAGRAMS * (rounds + 1)
        with _arriving(bed, due * len(GUESTS)), _sent_by_each(bed, due):
            what = "UDP packets/s, veth"
            order = f"send {DATAGRAMS}"
            yield from _of_guests(traffic.slices(bed, rounds, what, order, DATAGRAMS, bar, is_rate=True))
        if program := compiled("frames.c", place.directory):
            with _arriving(bed, due * len(TAPS)):
                yield from _of_guests(_frames(bed, program, rounds, bar))


def _frames(bed: GuestBed, program: str, rounds: int, bar: Bar) -> Iterator[Row]:
    def rate(setting: str) -> list[float]:
        done, ns = bed.tap(program, setting).order(f"send {DATAGRAMS}")
        return [done / ns * 1e9]

    found = paired(TAPS, rounds, rate, bed.forget_events)
    yield row(f"UDP packets/s, tap: {OFF}", found.plain, "/s")
    for setting, ratios in found.ratios.items():
        yield row(f"UDP packets/s, tap: {setting}", ratios, "x", bar)


def denials(place: Place, rounds: int) -> Iterator[Row]:
    """How soon a guest knows that it is denied; without exeat it is the server's kernel that refuses."""
    program, frames = compiled("denied.c", place.directory), compiled("frames.c", place.directory)
    if program is None or frames is None:
        return
    with guest_bed(place) as bed:
        settings = (OFF, TEN_THOUSAND)

        def of(order: str) -> Callable[[str], list[int]]:
            return lambda setting: bed.denied(program, setting).each(order)

        yield from _told(bed, "TCP, from connect", settings, of("refused 30"), rounds)
        yield from _told(bed, "UDP, from send", settings, of("unreachable 30"), rounds)
        yield from _told(bed, "TLS by name, from the hello", (TEN_THOUSAND,), of("reset 30"), rounds, arriving=True)
        yield from _told(bed, "tap, SYN to RST", TAPS, lambda setting: bed.tap(frames, setting).each("syn 30"), rounds)


def _told(
    bed: GuestBed, what: str, settings: tuple[str, ...], each: Callable[[str], list[int]], rounds: int,
    *, arriving: bool = False,
) -> Iterator[Row]:  # fmt: skip
    """Milliseconds until a denial was known. `arriving`: the server sees the connection, but nothing in it."""
    found: dict[str, list[float]] = {setting: [] for setting in settings}
    for number in range(rounds + 1):
        for setting in settings if number % 2 else reversed(settings):
            bed.forget_events()
            before = bed.arrived()
            took = [ns / 1e6 for ns in each(setting)[2:]]
            if setting != OFF and not arriving and bed.arrived() != before:
                raise RuntimeError(f"{what}: what is denied has arrived")
            if number:  # the first time caches fill
                found[setting] += took
    for setting, took in found.items():
        bar = None if setting == OFF else Bar(DENIED_WITHIN_MS)
        whose = "refused by the server" if setting == OFF else setting
        yield row(f"guest: denied, {what}: {whose}", took, "ms", bar)
        yield row(f"guest: denied, {what}, p99: {whose}", [p99(took)], "ms", bar)


def costs(place: Place, rounds: int) -> Iterator[Row]:
    """For each kind of work: runs of each program for one piece, and nanoseconds of each run."""
    works = {
        "connect+close": ("connect 150", 150), "first flights": ("first 60", 60), "UDP send": ("send 1500", 1500),
        "64 KiB, tls rule": ("tls 60", 0), "64 KiB, tcp rule": ("tcp 60", 0), "64 KiB, in": ("take 60", 0),
    }  # fmt: skip
    with guest_bed(place) as bed, statistics_on():
        fds = {name: place.guard.instance.program(name) for name in PROGRAMS}
        for what, (order, pieces) in works.items():
            for setting in bed.workloads:
                client = bed.client(setting)
                client.order(order)
                before = {name: runs(fd) for name, fd in fds.items()}
                done = 0
                for _ in range(rounds):
                    bed.forget_events()
                    count, _ns = client.order(order)
                    done += pieces or count // 65536
                for name, fd in fds.items():
                    count, ns = (now - then for now, then in zip(runs(fd), before[name], strict=True))
                    if count > done / 100:
                        note = f"{count / done:.1f} runs of {ns / count:.0f} ns"
                        yield row(f"guest: {what}: {setting}: {name}", [ns / done], "ns", None, note)
