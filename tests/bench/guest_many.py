"""A thousand interfaces, and interfaces registered with a real agent."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import TypeVar

from bed.namespace import Namespace
from bed.network import ip_batch
from bench.guest_place import GuestBed, guest_bed
from bench.place import TEN, Place
from bench.rows import Bar, Row, p99, row
from e2e.agent_stage import open_agent_stage
from exeat.kernel.guest_abi import INTERFACE_BIT
from exeat.kernel.guests import GuestPlace
from exeat.kernel.pins import opened
from exeat.model.networks import mapped
from exeat.v1 import agent_pb2 as pb

T = TypeVar("T")

INTERFACES, FEW = 1000, 10
REGISTERED_WITHIN_MS = 5
_GROUP = 7
_FIRST = IPv6Address("2001:db8:1000::")


def thousand(place: Place, rounds: int) -> Iterator[Row]:
    """Milliseconds to have one of many interfaces judged, and to let go of it; what the kernel holds for each."""
    count = FEW if rounds < 3 else INTERFACES
    with guest_bed(place) as bed, _taps(bed.host, "m", count) as names:
        empty_kb = _kilobytes(place)
        judged = bed.host.call(lambda: [_timed(lambda: _judge(bed, *one)) for one in enumerate(names)])  # noqa: B023
        workloads = {workload for _, workload in judged}
        full_kb = _kilobytes(place)
        attached = {INTERFACE_BIT | index for index in bed.host.call(bed.hooks.attached)}
        if not workloads <= attached:
            raise RuntimeError(f"{len(workloads - attached)} of {count} interfaces are not attached")
        left = bed.host.call(lambda: [_timed(lambda: bed.leave(one)) for one in sorted(workloads)])  # noqa: B023
        if rest := bed.host.call(bed.hooks.attached) & {one & ~INTERFACE_BIT for one in workloads}:
            raise RuntimeError(f"{len(rest)} of {count} interfaces are still attached")
    yield from _spread(f"{count:,} interfaces: one more judged", [ms for ms, _ in judged], None)
    yield from _spread(f"{count:,} interfaces: one let go of", [ms for ms, _ in left], None)
    yield row("the kernel's tables for one interface", [(full_kb - empty_kb) / count], "kB")


def _judge(bed: GuestBed, number: int, name: str) -> int:
    said = GuestPlace(
        network=0, gate=(), guest_mac=None, gateway_macs=(_mac(number),), addresses=(mapped(_FIRST + number),),
        gateways=(mapped(_FIRST - 1),), learn=(), allows_dhcp=True,
    )  # fmt: skip
    return bed.judge(name, said, TEN)


def _mac(number: int) -> bytes:
    return bytes.fromhex("02005e60") + number.to_bytes(2, "big")


def _kilobytes(place: Place) -> float:
    """Of all maps of the instance, as the kernel counts them."""
    total = 0
    for path in (place.guard.instance.directory / "maps").iterdir():
        with opened(path) as fd:
            found = re.search(r"^memlock:\s+(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
            assert found
            total += int(found[1])
    return total / 1024


def registrations(place: Place, rounds: int) -> Iterator[Row]:
    """A tap registered with a real agent, from the API's call to its answer; and until a new one is found."""
    count = max(10, rounds * 40)
    with open_agent_stage(keeps_programs=False) as stage, _taps(stage.bed.network.client, "r", count + 1) as names:
        stage.write("guests", stage.policy("guests", stage.names("a.shop.test")))
        stage.start()
        with stage.client() as agent:
            first, *others = (
                pb.RegisterRequest(
                    name=f"guest-{number}",
                    interface=name,
                    policies=["guests"],
                    guest=pb.Guest(addresses=[str(_FIRST + number)]),
                )
                for number, name in enumerate(names)
            )
            alone, _ = _timed(lambda: agent.register(first))  # our programs are compiled when the first one comes
            took = [_timed(lambda: agent.register(one))[0] for one in others]  # noqa: B023
            living = {one.name for one in agent.list_workloads(pb.ListWorkloadsRequest()).workloads}
    if missing := {f"guest-{number}" for number in range(count + 1)} - living:
        raise RuntimeError(f"{len(missing)} of {count + 1} registered interfaces are no workloads")
    yield row("the first interface registered", [alone], "ms", None, "the programs of interfaces are loaded")
    yield from _spread("an interface registered", took, Bar(REGISTERED_WITHIN_MS))


def _spread(what: str, took_ms: list[float], bar: Bar | None) -> Iterator[Row]:
    yield row(what, took_ms, "ms")
    yield row(f"{what}, p99", [p99(took_ms)], "ms", bar)


def _timed(action: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    result = action()
    return (time.perf_counter() - began) * 1000, result


@contextmanager
def _taps(host: Namespace, prefix: str, count: int) -> Iterator[list[str]]:
    """So many taps, gone afterwards."""
    names = [f"{prefix}{number}" for number in range(count)]
    lines = (
        f"tuntap add dev {name} mode tap\nlink set {name} group {_GROUP} address {_mac(number).hex(':')} up\n"
        for number, name in enumerate(names)
    )
    ip_batch(host, "".join(lines))
    try:
        yield names
    finally:
        ip_batch(host, f"link del group {_GROUP}\n")  # at once: one after the other takes 20 ms each
