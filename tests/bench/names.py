"""What resolving costs through the gate, beside dnsmasq doing the same for the same client (ask.c)."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bed import start_in
from bench.keeper import names_policy
from bench.paired import paired
from bench.place import CLIENT_CPU, HERE, OFF, Client, Place, compiled
from bench.rows import Bar, Row, row
from e2e.guard import Workload

UPSTREAM, DNSMASQ, GATE = "upstream itself", "dnsmasq", "gate"
SOMEBODY = "192.0.2.53"  # whom the client under the gate asks; nobody is there
RATE = 3000  # questions of a slice
EACH = 20  # the same, one after the other: a name comes again when its answer of one second is old
_DNSMASQ = "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --no-poll --pid-file= --user=root"
_DNSMASQ_AT = "--listen-address=127.0.0.1 --bind-interfaces --port=53 --cache-size=10000"
_PATIENCE_S = 10.0
_QUESTION = b"\0\1\1\0\0\1\0\0\0\0\0\0\2k0\5bench\4test\0\0\1\0\1"


class _Resolvers:
    """A resolver on the hosts' side, dnsmasq and a gate in front of it, and a client for each of the three."""

    def __init__(self, place: Place, program: str) -> None:
        self._place, self._program = place, program
        bed = place.bed
        address = bed.network.next_addresses()[0]
        self._upstream = self._start([program, "serve", address], at=bed.network.hosts)
        policy, workload = names_policy(), Workload(place.guard, place.guard.leaf())
        policy_id = workload.switch(*policy.rules)
        instance = place.guard.instance.name
        self._gate = self._start(
            [sys.executable, "-m", "bench.keeper", instance, str(workload.cgroup), str(policy_id), address],
            env={"PYTHONPATH": str(HERE.parent)},
        )
        off = place.cgroups[OFF]
        self.clients = {UPSTREAM: self._client(address, off), GATE: self._client(SOMEBODY, workload.cgroup)}
        dnsmasq = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
        if dnsmasq:
            start_in(bed, [dnsmasq, *_DNSMASQ.split(), *_DNSMASQ_AT.split(), f"--server={address}"])
            bed.network.client.call(_wait_for_answer)
            self.clients[DNSMASQ] = self._client("127.0.0.1", off)

    def _start(self, argv: list[str], **options: Any) -> subprocess.Popen[str]:
        process = start_in(self._place.bed, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        assert process.stdout
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{argv[1]} did not start (its last words are on stderr)")
        return process

    def _client(self, address: str, cgroup: Path) -> Client:
        return Client(self._place.bed, [self._program, "client", address, CLIENT_CPU], cgroup)

    def asked_upstream(self) -> int:
        """How many questions have reached the resolver on the hosts' side."""
        assert self._upstream.stdin
        assert self._upstream.stdout
        self._upstream.stdin.write("\n")
        self._upstream.stdin.flush()
        return int(self._upstream.stdout.readline())

    def end(self) -> int:
        """Ends the gate and the resolver; how many questions the gate allowed. Another verdict is an error."""
        self._upstream.communicate()
        allowed, all_of_them = (int(word) for word in self._gate.communicate()[0].split())
        if allowed != all_of_them:
            raise RuntimeError(f"{all_of_them - allowed} of {all_of_them} questions were not allowed")
        return allowed


def _wait_for_answer() -> None:
    end = time.monotonic() + _PATIENCE_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.1)
        asking.connect(("127.0.0.1", 53))
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                asking.send(_QUESTION)
                asking.recv(512)
                return
            time.sleep(0.01)
    raise RuntimeError("dnsmasq does not answer (its last words are on stderr)")


def resolving(place: Place, rounds: int) -> Iterator[Row]:
    """Answers a second and microseconds for one, cached and forwarded; and a connection to what was answered."""
    program = compiled("ask.c", place.directory)
    if program is None:
        return  # Python's own work would be most of what is measured
    resolvers = _Resolvers(place, program)
    asked = 0

    def rate(word: str) -> Callable[[str], list[float]]:
        def answers(resolver: str) -> list[float]:
            nonlocal asked
            asked += RATE * (resolver == GATE)
            done, ns = resolvers.clients[resolver].order(f"{word} {RATE}")
            return [done / ns * 1e9]

        return answers

    def each(word: str) -> Callable[[str], list[float]]:
        def cost(resolver: str) -> list[float]:
            nonlocal asked
            asked += EACH * (resolver == GATE)
            return [ns / 1000 for ns in resolvers.clients[resolver].each(f"{word} {EACH}")[2:]]

        return cost

    if DNSMASQ in resolvers.clients:
        for word, what in (("rate", "cached"), ("vary", "cached, each written anew")):
            found = paired((DNSMASQ, GATE), rounds, rate(word), place.forget_events, DNSMASQ)
            yield row(f"DNS answers/s, {what}: {DNSMASQ}", found.plain, "/s")
            yield row(
                f"DNS answers/s, {what}: {GATE}",
                found.ratios[GATE],
                "x",
                Bar(0.8, is_least=True) if word == "rate" else None,
            )
        found = paired((DNSMASQ, GATE), rounds, each("known"), place.forget_events, DNSMASQ)
        yield row(f"DNS question, cached: {DNSMASQ}", found.plain, "us")
        yield row(f"DNS question, cached: {GATE}", found.extra[GATE], "us more")
    before, began = resolvers.asked_upstream(), asked
    for word, what in (("fresh", "DNS question, forwarded"), ("reach", "DNS question, forwarded, then connect")):
        found = paired(resolvers.clients, rounds, each(word), place.forget_events, UPSTREAM)
        yield row(f"{what}: {UPSTREAM}", found.plain, "us")
        for resolver, extra in found.extra.items():
            yield row(
                f"{what}: {resolver}", extra, "us more", Bar(250) if resolver == GATE and word == "fresh" else None
            )
    if resolvers.asked_upstream() - before < (asked - began) * len(resolvers.clients):
        raise RuntimeError("not every question that was to be forwarded was: caches were measured")
    if resolvers.end() != asked:
        raise RuntimeError("the gate did not answer all that was asked: something else was measured")
