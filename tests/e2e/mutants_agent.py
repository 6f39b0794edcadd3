"""The gate and the agent with one defence taken out; see mutants.py, which does the same to the kernel's programs.

The gate of most tests runs in their own process: there, a function is replaced. An agent is a program of its own: it
runs from a copied tree in which a text is not there any more.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from e2e.agent_builds import as_it_is
from exeat.core.resolvable import Resolvable
from exeat.core.tunnel import TunnelWatch
from exeat.dns.answers import Answer, make_answer
from exeat.dns.gate import Gate
from exeat.dns.records import Kind, Reply
from exeat.gate_thread import GateThread
from exeat.gatehouse import Gatehouse

_LATE_S = 0.2


@dataclass(frozen=True)
class AgentMutation:
    """A text of a module below exeat/, and what stands in its place."""

    removes: str
    module: str
    old: str
    new: str


AGENT_MUTATIONS = {
    "cut": AgentMutation(
        "Enforcer.cut: what is open stays open, whatever the policy says now",
        "agent/enforcer.py",
        "        return self._swept(policy_ids, diagnoses) if policy_ids else 0",
        "        return 0",
    ),
    "key": AgentMutation(
        "Sets._make: any table set in the kernel is the right one",
        "agent/sets.py",
        "policy_id = self._left.pop(key, None)",
        "policy_id = self._left.pop(next(iter(self._left), key), None)",
    ),
}


def mutated_build(place: Path, names: Sequence[str]) -> dict[str, str]:
    """A copy of this build without these defences: the environment in which an agent runs it."""
    environment = as_it_is(place)
    for name in names:
        mutation = AGENT_MUTATIONS[name]
        path = place / "agent" / "exeat" / mutation.module
        text = path.read_text()
        if text.count(mutation.old) != 1:
            raise LookupError(f"the mutation {name!r} has lost its place: {path.name} does not say {mutation.old!r}")
        path.write_text(text.replace(mutation.old, mutation.new))
    return environment


def _believing(reply: Reply, name: str, *more: Any, **how: Any) -> Answer:
    addresses = (one for one in reply.records if one.kind in (Kind.A, Kind.AAAA))
    return make_answer(replace(reply, records=tuple(replace(one, name=name) for one in addresses)), name, *more, **how)


def _late(gatehouse: Gatehouse, *what: Any) -> Sequence[bytes]:
    thread: GateThread = gatehouse._thread
    assert thread.loop
    thread.loop.call_later(_LATE_S, _GRANT, gatehouse, *what)
    return ()


_GRANT = Gatehouse._grant
GATE_MUTATIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    # an address inside is an address like any other
    "withholding": lambda: mock.patch.object(Resolvable, "is_special", return_value=False),
    # every address of a reply is the answer's
    "chain": lambda: mock.patch("exeat.dns.gate.make_answer", _believing),
    # no name is a message
    "tunnel": lambda: mock.patch.object(TunnelWatch, "look", return_value=None),
    # the answer leaves first
    "grant first": lambda: mock.patch.object(Gatehouse, "_grant", _late),
    # what was answered is answered again, though its grant was taken back
    "forgetting": lambda: mock.patch.object(Gate, "forget", return_value=None),
}


def open_door() -> AbstractContextManager[Any]:
    """Everybody may ask."""
    return mock.patch("exeat.control.door.may_ask", return_value=True)
