"""The plane's store, on either database, and short words to fill it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from exeat.plane.nodes import nodes
from exeat.plane.nodes.node import Answered, Arrival, Node
from exeat.plane.policies.assign import Entries
from exeat.plane.policies.policies import Change
from exeat.plane.store.database import Database, Tx, open_database
from exeat.v1 import plane_pb2
from plane.postgres import new_database

KINDS = ("sqlite", "postgresql")
SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND  # a moment in 2027, on a full hour


def url_of(kind: str, place: Path) -> str:
    """Of a store that is not there yet."""
    return f"sqlite:{place}/plane.db" if kind == "sqlite" else new_database()


@contextmanager
def open_store(kind: str, place: Path) -> Iterator[Database]:
    """An empty one."""
    database = open_database(url_of(kind, place))
    try:
        yield database
    finally:
        database.close()


def policy_text(name: str, *hosts: str, spec: str = "") -> str:
    """A policy with one rule."""
    listed = ", ".join(f'"{host}"' for host in hosts or ("example.com",))
    return (
        f"apiVersion: exeat.dev/v1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n{spec}"
        f"  egress:\n  - name: hosts\n    hosts: [{listed}]\n"
    )


def on_nodes(**labels: str) -> str:
    """For `policy_text`: only nodes with these labels."""
    pairs = ", ".join(f"{name}: {value}" for name, value in labels.items())
    return f"  subject: {{cgroups: [/agents], nodes: {{{pairs}}}}}\n"


def change(at_ns: int = T0, **words: object) -> Change:
    """By alice."""
    return Change(**({"by": "alice", "reason": "because", "at_ns": at_ns} | words))  # type: ignore[arg-type]


def said_hello(name: str, labels: Mapping[str, str] | None = None, serial: int = 0, at_ns: int = T0) -> plane_pb2.Hello:
    """As an agent says it."""
    hello = plane_pb2.Hello(node=name, labels=labels or {}, version="0.5.0", protocol=1, kernel="6.1.0", serial=serial)
    hello.features.append("cgroup2")
    hello.start = "7f3a"
    hello.now.FromNanoseconds(at_ns)
    return hello


def come(tx: Tx, name: str, labels: Mapping[str, str] | None = None, at_ns: int = T0) -> Node:
    """A node comes for the first time."""
    return nodes.hello(tx, said_hello(name, labels, at_ns=at_ns), Arrival("plane-1", at_ns))


def ack(tx: Tx, name: str, entries: Entries, at_ns: int = T0) -> None:
    """A node is sent a manifest, and takes it."""
    serial = nodes.next_serial(tx, name, at_ns)
    nodes.answered(tx, Answered(name, serial, entries, at_ns), plane_pb2.PolicyAnswer(is_accepted=True, serial=serial))


def nack(tx: Tx, name: str, fault: str, at_ns: int = T0) -> None:
    """A node is sent a manifest, and refuses it."""
    serial = nodes.next_serial(tx, name, at_ns)
    answer = plane_pb2.PolicyAnswer(faults=[plane_pb2.PolicyFault(policy="p", text=fault)])
    nodes.answered(tx, Answered(name, serial, (), at_ns), answer)


def tally(tx: Tx, node: str, policy: str, hook: str, verdict: int, count: int, at_ns: int = T0) -> None:
    """Verdicts that were counted."""
    hour_ns = at_ns - at_ns % (3600 * SECOND)
    columns = (
        "hour_ns",
        "node",
        "workload",
        "policy",
        "rule",
        "target",
        "port",
        "protocol",
        "hook",
        "verdict",
        "reason",
    )
    known = (hour_ns, node, "/w", policy, "", f"t{at_ns}", 443, 6, hook, verdict, 1)
    tx.append("tallies", (*columns, "count", "first_ns", "last_ns"), [(*known, count, at_ns, at_ns)])
