"""What connections, handshakes, bulk data and datagrams cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bed import Bed, Host, start_in
from bed.namespace import Namespace
from bench.paired import Compared, paired
from bench.place import HERE, JUDGED_BY_NAME, NAME, OFF, SETTINGS, UNMANAGED, Place
from bench.rows import Bar, Row, row
from exeat.model.verdicts import Reason, Verdict

# Nothing can be measured to be no cost at all: within this of the same work without exeat is none that counts.
NO_COST = 0.03


def connections(where: Compared, rounds: int) -> Iterator[Row]:
    """TCP connect and close."""
    yield from slices(where, rounds, "TCP connect+close", "connect 150", 150, Bar(1.10))


def first_flights(where: Compared, rounds: int) -> Iterator[Row]:
    """All of a TLS connection's system calls, without the cryptography that would hide them."""
    work = ordered(where, "first 60")

    def cost(setting: str) -> list[float]:
        done, ns = work(setting)
        return [ns / done / 1000]

    found = paired(where.settings, rounds, cost, where.forget_events)
    for setting, extra in found.extra.items():
        yield row(f"connect, ClientHello, answer, second flight: {setting}", extra, "us more", Bar(25))


def datagrams(place: Place, rounds: int) -> Iterator[Row]:
    """64-byte datagrams a second, from a connected socket and from one that is not."""
    for word, what in (("send", "UDP packets/s, connected send"), ("sendto", "UDP packets/s, sendto")):
        yield from slices(place, rounds, what, f"{word} 1500", 1500, Bar(0.85, is_least=True), is_rate=True)


def bulk(where: Compared, rounds: int) -> Iterator[Row]:
    """Bytes a second in 64 KiB writes, on a connection whose name was verified and on one that needs none."""
    for word, what in (("tls", "bulk bytes/s, tls rule"), ("tcp", "bulk bytes/s, tcp rule")):
        yield from slices(where, rounds, what, f"{word} 60", 0, Bar(0.97, is_least=True), is_rate=True)


def ordered(where: Compared, order: str) -> Callable[[str], tuple[int, int]]:
    """The order, to the client of a setting."""
    return lambda setting: where.client(setting).order(order)


def slices(
    where: Compared, rounds: int, what: str, order: str, expected: int, bar: Bar, *, is_rate: bool = False
) -> Iterator[Row]:
    """An order in each setting: what it costs, or how fast it goes, beside the same without exeat."""
    work = ordered(where, order)

    def cost(setting: str) -> list[float]:
        done, ns = work(setting)
        if expected and done != expected:
            raise RuntimeError(f"{what}: {done} of {expected} were done in the setting {setting!r}")
        return [done / ns * 1e9 if is_rate else ns / done / 1000]

    found = paired(where.settings, rounds, cost, where.forget_events)
    yield row(f"{what}: {OFF}", found.plain, "/s" if is_rate else "us")
    for setting, ratios in found.ratios.items():
        own = Bar(1 - NO_COST if is_rate else 1 + NO_COST, is_least=is_rate) if setting == UNMANAGED else bar
        yield row(f"{what}: {setting}", ratios, "x", own)


class Handshakes:
    """One Python process in a cgroup or namespace that shakes hands with a real TLS host, as often as it is told."""

    def __init__(self, bed: Bed, host: Host, cgroup: Path | None = None, at: Namespace | None = None) -> None:
        argv = [sys.executable, str(HERE / "handshakes.py"), host.address4, NAME, str(bed.authority.ca_file)]
        self._process = start_in(bed, argv, cgroup=cgroup, at=at, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def times(self, count: int) -> list[float]:
        """Microseconds of each, from connect() to the end of the handshake."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        answer = [float(word) for word in self._process.stdout.readline().split()]
        if len(answer) != count:
            raise RuntimeError("a handshake failed (its last words are on stderr)")
        return answer


def handshakes(place: Place, rounds: int) -> Iterator[Row]:
    """TLS handshakes by OpenSSL."""
    host = place.tls_host()
    clients = {setting: Handshakes(place.bed, host, place.cgroups[setting]) for setting in SETTINGS}
    judged = place.guard.tables.counter(Verdict.FORWARDED, Reason.NAME_ALLOWED)
    found = paired(SETTINGS, rounds, lambda setting: clients[setting].times(10), place.forget_events)
    judged = place.guard.tables.counter(Verdict.FORWARDED, Reason.NAME_ALLOWED) - judged
    if judged != len(JUDGED_BY_NAME) * 10 * (rounds + 1):
        raise RuntimeError(f"{judged} handshakes were judged by their names: something else was measured")
    yield row(f"TLS handshake: {OFF}", found.plain, "us")
    for setting, ratios in found.ratios.items():
        yield row(f"TLS handshake: {setting}", ratios, "x", Bar(1.03))
    for setting, extra in found.extra.items():
        if setting != UNMANAGED:
            yield row(f"TLS handshake, more at p50: {setting}", extra, "us more", Bar(25))
