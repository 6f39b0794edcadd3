"""The nodes of the fleet: who they are, what they were sent, and what they enforce by their own word."""

import json
from collections.abc import Iterable, Mapping, Sequence

from exeat.core.problems import shown
from exeat.errors import Refused, StatusWord
from exeat.plane.nodes.node import Answered, Arrival, Beat, Holding, Node
from exeat.plane.policies.assign import Entries, serial_after
from exeat.plane.store.database import News, Row, Topic, Tx
from exeat.v1 import plane_pb2

_NAME_MAX = 253  # RFC 1035 2.3.4: it stands in a certificate
_LABELS_MAX, _LABEL_MAX, _VALUE_MAX = 64, 63, 253
_TEXT_MAX, _TEXTS_MAX = 2000, 100  # of what an agent says about itself
_HOLDINGS_MAX, _POLICY_MAX, _REVISION_MAX = 10_000, 63, 64  # as many as an agent takes; names and hashes as they are
_SERIAL_MAX = 1 << 53  # milliseconds for 285,000 years: whoever says more is not to be believed
_BIGINT_MAX = (1 << 63) - 1
_COLUMNS = (
    "name, state, labels, pinned, version, kernel, features, start, protocol, first_ns, seen_ns, connected, replica, "
    "serial, acked, acked_ns, took_ns, fault, fault_ns, failures, complaints, skew_ms, lost_events, unreported"
)
_SELECT = f"SELECT {_COLUMNS} FROM nodes"
# An empty manifest would be true, signed and newer, and take every policy from the whole fleet.
_BLANK = (
    "the node enforces {count} policies of a plane, and the store of this one has never had any. Was it lost? Put its "
    "backup back, or apply all policies at once: until then nodes stay as they are"
)


def hello(tx: Tx, said: plane_pb2.Hello, arrival: Arrival) -> Node:
    """Takes a node in, or raises Refused. What it holds is what it says."""
    had = node(tx, said.node)
    if had and had.is_retired:
        raise Refused(
            StatusWord.PERMISSION, f"{shown(said.node)} is retired: exeat plane nodes activate lets it in again"
        )
    if had is None and arrival.is_listed_only:
        raise Refused(StatusWord.PERMISSION, f"{shown(said.node)} is not listed: exeat plane nodes add lets it in")
    if said.serial > _SERIAL_MAX:
        raise _invalid(f"no plane has given the serial {said.serial}: remove the agent's state of the plane")
    _check_holdings(said)
    if said.serial and said.holdings and not (had and had.acked) and _is_blank(tx):
        raise Refused(StatusWord.UNAVAILABLE, _BLANK.format(count=len(said.holdings)))
    if had is None:
        add(tx, said.node)
    labels = _checked_labels(said.labels)
    features = tuple(clean(one) for one in said.features[:_TEXTS_MAX])
    tx.do(
        "UPDATE nodes SET labels = ?, version = ?, kernel = ?, features = ?, start = ?, protocol = ?, seen_ns = ?, "
        "connected = 1, replica = ?, first_ns = CASE WHEN first_ns = 0 THEN ? ELSE first_ns END, "
        "serial = CASE WHEN serial < ? THEN ? ELSE serial END, skew_ms = ? WHERE name = ?",
        *(json.dumps(labels), clean(said.version), clean(said.kernel), json.dumps(features), clean(said.start)),
        *(min(said.protocol, 1 << 30), arrival.at_ns, arrival.replica, arrival.at_ns, said.serial, said.serial),
        *(skew_ms(said.now.ToNanoseconds(), arrival.at_ns), said.node),
    )
    # What it accepted is known with its times. It can have something else only where this store was brought back.
    if had is None or had.acked != said.serial:
        entries = tuple((one.name, one.revision) for one in said.holdings) if said.serial else ()
        _hold(tx, said.node, entries, arrival.at_ns)
        tx.do("UPDATE nodes SET acked = ?, acked_ns = ? WHERE name = ?", said.serial, arrival.at_ns, said.node)
    if had is None or had.effective_labels != {**labels, **had.pinned}:
        tx.tell(News(Topic.POLICIES))
    tx.tell(News(Topic.NODES, said.node))
    return _there(tx, said.node)


def gone(tx: Tx, name: str, replica: str, at_ns: int) -> None:
    """Its stream has ended; unless it has come to another replica in the meantime."""
    if tx.do("UPDATE nodes SET connected = 0, seen_ns = ? WHERE name = ? AND replica = ?", at_ns, name, replica):
        tx.tell(News(Topic.NODES, name))


def forget_connections(tx: Tx, replica: str) -> None:
    """A replica starts: who was connected to the one of its name before is no longer."""
    tx.do("UPDATE nodes SET connected = 0 WHERE replica = ? AND connected = 1", replica)


def beat(tx: Tx, beats: Iterable[Beat]) -> None:
    """How nodes are. In the order of names: two replicas that write the same ones must not lock each other out."""
    tx.many(
        "UPDATE nodes SET seen_ns = ?, skew_ms = ?, lost_events = ?, unreported = ?, complaints = ? WHERE name = ?",
        [
            (one.seen_ns, one.skew_ms, min(one.lost_events, _BIGINT_MAX), min(one.unreported, _BIGINT_MAX))
            + (_texts(one.complaints), one.node)
            for one in sorted(beats, key=lambda one: one.node)
        ],
    )


def next_serial(tx: Tx, name: str, now_ns: int) -> int:
    """For a manifest that is to be sent. Raises Refused for a node that is not there."""
    row = tx.one(
        "UPDATE nodes SET serial = CASE WHEN serial + 1 > ? THEN serial + 1 ELSE ? END WHERE name = ? RETURNING serial",
        *(serial_after(-1, now_ns), serial_after(-1, now_ns), name),
    )
    if row is None:
        raise _unknown(name)
    return int(row[0])


def answered(tx: Tx, asked: Answered, said: plane_pb2.PolicyAnswer) -> None:
    """ACK or NACK."""
    if said.is_accepted:
        tx.do(
            "UPDATE nodes SET acked = ?, acked_ns = ?, took_ns = ?, failures = ?, fault = '', fault_ns = 0, "
            "seen_ns = ? WHERE name = ?",
            *(
                asked.serial,
                asked.at_ns,
                min(said.took_ns, _BIGINT_MAX),
                _texts(said.failures),
                asked.at_ns,
                asked.node,
            ),
        )
        _hold(tx, asked.node, asked.entries, asked.at_ns)
    else:
        fault = "\n".join(clean(one.text) for one in said.faults[:_TEXTS_MAX]) or _no_reason(said)
        tx.do(
            "UPDATE nodes SET fault = ?, fault_ns = ?, seen_ns = ? WHERE name = ?",
            *(fault, asked.at_ns, asked.at_ns, asked.node),
        )
    tx.tell(News(Topic.NODES, asked.node))


def add(tx: Tx, name: str) -> None:
    """Lists a node that may come."""
    if not name or len(name) > _NAME_MAX or not name.isprintable() or " " in name:
        raise _invalid(f"{shown(name)} is no node's name: write it as it stands in the node's certificate")
    if tx.one("SELECT 1 FROM nodes WHERE name = ?", name):
        raise Refused(StatusWord.PRECONDITION, f"{name} is listed already")
    values = (name, "active", "{}", "{}", "", "", "[]", "", 0, 0, 0, 0, "", 0, 0, 0, 0, "", 0, "[]", "[]", 0, 0, 0)
    marks = ", ".join("?" * len(values))
    tx.do(f"INSERT INTO nodes ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (name) DO NOTHING", *values)
    tx.tell(News(Topic.NODES, name))


def retire(tx: Tx, name: str) -> None:
    """It may not come any more; what it enforces, it enforces on."""
    _set_state(tx, name, "retired")


def activate(tx: Tx, name: str) -> None:
    """It may come again."""
    _set_state(tx, name, "active")


def pin(tx: Tx, name: str, labels: Mapping[str, str]) -> None:
    """Labels that hold in place of what the node says: these and no others."""
    if not tx.do("UPDATE nodes SET pinned = ? WHERE name = ?", json.dumps(_checked_labels(labels)), name):
        raise _unknown(name)
    tx.tell(News(Topic.POLICIES))
    tx.tell(News(Topic.NODES, name))


def nodes(tx: Tx) -> list[Node]:
    """All, by name."""
    return [_node(row) for row in tx.all(f"{_SELECT} ORDER BY name")]


def node(tx: Tx, name: str) -> Node | None:
    """One of them."""
    row = tx.one(f"{_SELECT} WHERE name = ?", name)
    return _node(row) if row else None


def holdings(tx: Tx, name: str) -> tuple[Holding, ...]:
    """What a node enforces, by the policies' names."""
    rows = tx.all("SELECT name, revision, since_ns FROM holdings WHERE node = ? ORDER BY name", name)
    return tuple(Holding(*row) for row in rows)


def all_holdings(tx: Tx) -> dict[str, tuple[Holding, ...]]:
    """What each node enforces, where it enforces anything."""
    found: dict[str, list[Holding]] = {}
    for name, *row in tx.all("SELECT node, name, revision, since_ns FROM holdings ORDER BY node, name"):
        found.setdefault(name, []).append(Holding(*row))
    return {name: tuple(held) for name, held in found.items()}


def skew_ms(theirs_ns: int, ours_ns: int) -> int:
    """How far a node's clock is ahead."""
    return (theirs_ns - ours_ns) // 1_000_000


def clean(text: str) -> str:
    """What a node says, as the store can keep it: PostgreSQL takes no NUL."""
    return text[:_TEXT_MAX].replace("\0", "\\x00")


def _hold(tx: Tx, name: str, entries: Entries, at_ns: int) -> None:
    had = {one.name: one.revision for one in holdings(tx, name)}
    now = {clean(policy): clean(revision) for policy, revision in entries}
    changed = sorted(policy for policy in had.keys() | now.keys() if had.get(policy) != now.get(policy))
    tx.many("DELETE FROM holdings WHERE node = ? AND name = ?", [(name, policy) for policy in changed])
    rows = [(name, policy, now[policy], at_ns) for policy in changed if policy in now]
    tx.many("INSERT INTO holdings (node, name, revision, since_ns) VALUES (?, ?, ?, ?)", rows)


def _set_state(tx: Tx, name: str, state: str) -> None:
    if not tx.do("UPDATE nodes SET state = ? WHERE name = ?", state, name):
        raise _unknown(name)
    tx.tell(News(Topic.NODES, name))


def _there(tx: Tx, name: str) -> Node:
    found = node(tx, name)
    assert found is not None
    return found


def _is_blank(tx: Tx) -> bool:
    """Whether nobody has ever put a policy into the store."""
    return tx.one("SELECT 1 FROM history LIMIT 1") is None


def _check_holdings(said: plane_pb2.Hello) -> None:
    if len(said.holdings) > _HOLDINGS_MAX or any(
        not 0 < len(one.name) <= _POLICY_MAX or len(one.revision) > _REVISION_MAX for one in said.holdings
    ):
        raise _invalid(
            f"a node holds at most {_HOLDINGS_MAX} policies, with names of at most {_POLICY_MAX} characters, and "
            f"revisions of {_REVISION_MAX} digits: remove the agent's state of the plane"
        )


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    if len(labels) > _LABELS_MAX or any(
        not name or len(name) > _LABEL_MAX or len(value) > _VALUE_MAX for name, value in labels.items()
    ):
        raise _invalid(
            f"a node has at most {_LABELS_MAX} labels, their names at most {_LABEL_MAX} and their values at most "
            f"{_VALUE_MAX} characters"
        )
    return dict(labels)


def _texts(texts: Sequence[str]) -> str:
    return json.dumps([clean(one) for one in texts[:_TEXTS_MAX]])


def _no_reason(said: plane_pb2.PolicyAnswer) -> str:
    return "it lacks documents and wants all of them" if said.wants_all else "it does not say why"


def _node(row: Row) -> Node:
    name, state, labels, pinned, version, kernel, features, start, protocol, first_ns, seen_ns, connected = row[:12]
    replica, serial, acked, acked_ns, took_ns, fault, fault_ns, failures, complaints, *counts = row[12:]
    who: Row = (name, state == "retired", json.loads(labels), json.loads(pinned), version, kernel)
    stream: Row = (tuple(json.loads(features)), start, protocol, first_ns, seen_ns, connected == 1, replica)
    held: Row = (serial, acked, acked_ns, took_ns, fault, fault_ns, tuple(json.loads(failures)))
    return Node(*(*who, *stream, *held, tuple(json.loads(complaints)), *counts))


def _invalid(sentence: str) -> Refused:
    return Refused(StatusWord.INVALID, sentence)


def _unknown(name: str) -> Refused:
    return Refused(StatusWord.NOT_FOUND, f"there is no node {shown(name)}: exeat plane nodes lists them")
