"""Each way around the reading of hellos twice: stopped as it is, and through where the defence against it is gone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from unittest import mock

import pytest

from bed import Host, Tcp, call_in
from e2e.guard import Guard
from e2e.hello_client import HelloClient, client, hello_guard, naming
from e2e.mutants import MUTATIONS, MutantGuard, Mutation
from hellos.build import Ext, Hello, RecordType, name_entry, record, server_name

__all__ = ["client", "hello_guard"]

MSG_FASTOPEN = 0x20000000  # on an established socket: the write fails, after on_message has let it pass
GOOD, EVIL = Hello(sni="good.test"), Hello(sni="evil.test")
EARLY = replace(GOOD, psk=bytes(99), early_data=True)
DATA = record(bytes(64), RecordType.APPLICATION_DATA, 0x0303)
HALF = len(GOOD.message()) // 2
Write = tuple[bytes, int]

HELLO_MUTATIONS = {
    "same name": Mutation(
        "judge_hello: a second hello may say anything",
        (("  if (!is_first && !is_same_name(verified, &scratch->name))", "  if (0)"),),
    ),
    "trailing": Mutation(
        "gather_hello: what follows the hello in its record does not matter",
        (
            ("      if (got + length > total) {", "      if (0) {"),
            ("    if (got == cursor->total) {", "    if (cursor->total && got >= cursor->total) {"),
            ("      ret->length = got;", "      ret->length = cursor->total;"),
        ),
    ),
    "duplicate": Mutation(
        "parse_hello: an extension may stand there twice",
        (("        if (scratch->seen[j] == type) {", "        if (0) {"),),
    ),
    "several": Mutation(
        "read_server_name: a second server_name takes the place of the first",
        (("  if (ret->name_at) {", "  if (0) {"),),
    ),
    "other type": Mutation(
        "read_server_name: the first name counts, of whatever type",
        (("  if (u8_at(scratch, at + 2) != HOST_NAME) {", "  if (0) {"),),
    ),
    "interleaved": Mutation(
        "refuse_record: any record may carry a part of the hello",
        (("    if (!is_first)\n      return HELLO_INTERLEAVED;", "    if (!is_first)\n      return 0;"),),
    ),
    "redirect": Mutation(
        "let_go: an ordinary pass, which the kernel remembers when the message fails",
        (("  int action = sockets.msg_redirect_hash(msg, &cookie, 0);", "  int action = cookie ? SK_PASS : SK_DROP;"),),
    ),
    "settling": Mutation(
        "keep_walk: a flight is settled before it has left",
        (("    stamp->state = STATE_SETTLING;", "    stamp->state = STATE_VERIFIED;"),),
    ),
    "step": Mutation(
        "is_in_step: nobody asks whether what passed is in the send queue",
        (("  return write_seq - stamp->first_seq == stamp->passed;", "  return 1;"),),
    ),
}


@dataclass(frozen=True)
class Way:
    """Writes of one connection, and a part of them that may never reach the server."""

    writes: tuple[Write, ...]
    never: bytes
    lacking: tuple[str, ...]


READING = ("same name", "trailing", "duplicate", "several", "other type", "interleaved")


def one(stream: bytes, never: bytes | None = None) -> Way:
    """A single write."""
    return Way(((stream, 0),), never or stream[-60:], READING)


def changed(*extensions: tuple[int, bytes]) -> bytes:
    """The good hello with other or more extensions."""
    return replace(GOOD, sni=None, before=extensions).stream()


good, evil = name_entry("good.test"), name_entry("evil.test")
WAYS = {
    "same name": Way(((GOOD.stream(), 0), (EVIL.stream(), 0)), EVIL.stream(), READING),
    "trailing": one(record(GOOD.message() + EVIL.message()), EVIL.message()),
    "duplicate": one(changed(server_name(good), (Ext.PADDING, b""), (Ext.PADDING, b"a"))),
    "several": one(changed(server_name(evil), server_name(good))),
    "other type": one(changed(server_name(name_entry("good.test", kind=1)))),
    "interleaved": one(record(GOOD.message()[:HALF]) + record(GOOD.message()[HALF:], RecordType.ALERT)),
    "redirect": Way(
        ((GOOD.stream(), 0), (GOOD.stream(), MSG_FASTOPEN), (EVIL.stream(), 0)), EVIL.stream(), ("redirect",)
    ),
    "settling": Way(((GOOD.stream(), 0), (DATA, MSG_FASTOPEN), (EVIL.stream(), 0)), EVIL.stream(), ("settling",)),
    "step": Way(
        ((EARLY.stream(), 0), (b"\x17\3\3\x0f\xff" + bytes(9), MSG_FASTOPEN), (EVIL.stream(), 0)),
        EVIL.stream(),
        ("step",),
    ),
}


@pytest.fixture(scope="module")
def mutants(hello_guard: Guard) -> Iterator[Callable[[tuple[str, ...]], Guard]]:
    """Makes, once each, an instance that lacks some defences."""
    made: dict[tuple[str, ...], Guard] = {}
    with ExitStack() as stack:

        def lacking(names: tuple[str, ...]) -> Guard:
            if names not in made:
                with mock.patch.dict(MUTATIONS, HELLO_MUTATIONS):
                    made[names] = MutantGuard(*names)
                stack.callback(made[names].close)
            return made[names]

        yield lacking


@pytest.fixture(scope="module")
def host(client: HelloClient) -> Host:
    """A server that reads."""
    return client.bed.add("recording.test", Tcp(443, "record"))


def get_through(guard: Guard, client: HelloClient, host: Host, way: Way) -> bool:
    """Whether the server read what it never should."""
    host.reset()

    def run() -> None:
        with socket.create_connection((host.address4, 443)) as sock:
            for part, flags in way.writes:
                with suppress(PermissionError, OSError if flags else PermissionError):
                    sock.send(part, flags)

    with guard.workload(naming("good.test", "evil.test")) as workload:
        call_in(client.bed, run, cgroup=workload.cgroup)
        return host.count().connections == 1 and way.never in host.received()


@pytest.mark.parametrize("way", WAYS)
def test_it_does_not_get_through(hello_guard: Guard, client: HelloClient, host: Host, way: str) -> None:
    """With all defences; the honest twin does."""
    assert not get_through(hello_guard, client, host, WAYS[way])
    assert get_through(hello_guard, client, host, one(GOOD.stream()))


@pytest.mark.parametrize("way", WAYS)
def test_it_gets_through_without_the_defence(
    mutants: Callable[[tuple[str, ...]], Guard], client: HelloClient, host: Host, way: str
) -> None:
    """The same writes to the same server."""
    assert get_through(mutants(WAYS[way].lacking), client, host, WAYS[way])


def test_every_mutation_has_its_way() -> None:
    """And the other way round."""
    assert WAYS.keys() == HELLO_MUTATIONS.keys()
