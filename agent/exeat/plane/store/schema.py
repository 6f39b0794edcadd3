"""The tables, for both databases. Append-only: a change is a further step, and old steps stay as they are."""

from exeat.plane.store.database import StoreError, Tx

# `{id}` is a number that the database makes up, growing.
_FIRST = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);

-- Texts by their SHA-256. Never removed: histories refer to them. `facts`: what is asked of many policies at once, read
-- out of the text when it came (policy_facts.py).
CREATE TABLE documents (
  revision TEXT PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL, facts TEXT NOT NULL, first_ns BIGINT NOT NULL
);

-- What shall hold. `source`: store, or directory.
CREATE TABLE policies (
  name TEXT PRIMARY KEY, revision TEXT NOT NULL REFERENCES documents, source TEXT NOT NULL, changed_ns BIGINT NOT NULL
);

-- Every change of a policy, for ever. `action`: apply, rollback, remove, approve. An empty revision: removed.
CREATE TABLE history (
  id {id}, name TEXT NOT NULL, revision TEXT NOT NULL, before TEXT NOT NULL, action TEXT NOT NULL,
  by_whom TEXT NOT NULL, reason TEXT NOT NULL, at_ns BIGINT NOT NULL
);
CREATE INDEX history_of ON history (name, id);

-- A change on its way to all nodes. `state`: running, stopped, done, cancelled. `stages`: percents, as JSON. `tried`,
-- `denied`: what was counted on the chosen nodes, from the full hour on, when the stage began; tallies know no minutes.
CREATE TABLE rollouts (
  id {id}, name TEXT NOT NULL, before TEXT NOT NULL, revision TEXT NOT NULL, stages TEXT NOT NULL,
  stage INTEGER NOT NULL, soak_s INTEGER NOT NULL, max_per_mille INTEGER NOT NULL, state TEXT NOT NULL,
  why TEXT NOT NULL, by_whom TEXT NOT NULL, began_ns BIGINT NOT NULL, stage_ns BIGINT NOT NULL,
  tried BIGINT NOT NULL, denied BIGINT NOT NULL
);
CREATE INDEX rollouts_of ON rollouts (state, name);

-- `state`: active, retired. `pinned`: labels that the plane sets, in place of what the node says. `fault`: the NACK
-- that holds, empty: none. `serial` is the manifest that was sent last, `acked` the one that the node enforces.
CREATE TABLE nodes (
  name TEXT PRIMARY KEY, state TEXT NOT NULL, labels TEXT NOT NULL, pinned TEXT NOT NULL, version TEXT NOT NULL,
  kernel TEXT NOT NULL, features TEXT NOT NULL, start TEXT NOT NULL, protocol INTEGER NOT NULL,
  first_ns BIGINT NOT NULL, seen_ns BIGINT NOT NULL, connected INTEGER NOT NULL, replica TEXT NOT NULL,
  serial BIGINT NOT NULL, acked BIGINT NOT NULL, acked_ns BIGINT NOT NULL, took_ns BIGINT NOT NULL,
  fault TEXT NOT NULL, fault_ns BIGINT NOT NULL, failures TEXT NOT NULL, complaints TEXT NOT NULL,
  skew_ms BIGINT NOT NULL, lost_events BIGINT NOT NULL, unreported BIGINT NOT NULL
);

-- What a node enforces, by its own word.
CREATE TABLE holdings (
  node TEXT NOT NULL, name TEXT NOT NULL, revision TEXT NOT NULL, since_ns BIGINT NOT NULL, PRIMARY KEY (node, name)
);

CREATE TABLE workloads (
  node TEXT NOT NULL, name TEXT NOT NULL, cgroup TEXT NOT NULL, labels TEXT NOT NULL, policies TEXT NOT NULL,
  mode TEXT NOT NULL, mode_until_ns BIGINT NOT NULL, source TEXT NOT NULL, since_ns BIGINT NOT NULL,
  PRIMARY KEY (node, name)
);

-- `body`: a serialised exeat.v1.Command. `state`: waiting, sent, done, refused, expired.
CREATE TABLE commands (
  id TEXT PRIMARY KEY, node TEXT NOT NULL, body {bytes} NOT NULL, by_whom TEXT NOT NULL, at_ns BIGINT NOT NULL,
  expires_ns BIGINT NOT NULL, state TEXT NOT NULL, result {bytes}, ended_ns BIGINT NOT NULL
);
CREATE INDEX commands_of ON commands (node, state);

-- How far each log of a node has come. `lost`: lines that will never come.
CREATE TABLE logs (
  node TEXT NOT NULL, log TEXT NOT NULL, first BIGINT NOT NULL, through BIGINT NOT NULL, lost BIGINT NOT NULL,
  at_ns BIGINT NOT NULL, PRIMARY KEY (node, log)
);

-- Verdicts one by one, as long as retention says. `body`: a serialised exeat.v1.VerdictRecord.
CREATE TABLE verdicts (
  id {id}, at_ns BIGINT NOT NULL, node TEXT NOT NULL, log TEXT NOT NULL, number BIGINT NOT NULL,
  verdict INTEGER NOT NULL, workload TEXT NOT NULL, target TEXT NOT NULL, body {bytes} NOT NULL
);
CREATE INDEX verdicts_at ON verdicts (at_ns);

-- The same counted by the hour, for much longer. `target`: the name, or else the address; `workload`: the cgroup.
CREATE TABLE tallies (
  hour_ns BIGINT NOT NULL, node TEXT NOT NULL, workload TEXT NOT NULL, policy TEXT NOT NULL, rule TEXT NOT NULL,
  target TEXT NOT NULL, port INTEGER NOT NULL, protocol INTEGER NOT NULL, hook TEXT NOT NULL,
  verdict INTEGER NOT NULL, reason INTEGER NOT NULL,
  count BIGINT NOT NULL, first_ns BIGINT NOT NULL, last_ns BIGINT NOT NULL,
  PRIMARY KEY (hour_ns, node, workload, policy, rule, target, port, protocol, hook, verdict, reason)
);

-- Denials that somebody turned into a rule. `denied_ns`: the first of them.
CREATE TABLE approvals (
  id {id}, policy TEXT NOT NULL, rule TEXT NOT NULL, destination TEXT NOT NULL, workload TEXT NOT NULL,
  owner TEXT NOT NULL, reason TEXT NOT NULL, expires_ns BIGINT NOT NULL, by_whom TEXT NOT NULL,
  at_ns BIGINT NOT NULL, denied_ns BIGINT NOT NULL, history_id BIGINT NOT NULL
);

-- `role`: viewer, approver, admin. `hash`: SHA-256 of the token, in hexadecimal digits.
CREATE TABLE tokens (
  name TEXT PRIMARY KEY, role TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, made_ns BIGINT NOT NULL,
  expires_ns BIGINT NOT NULL, used_ns BIGINT NOT NULL
);
"""

STEPS = (_FIRST,)


def bring_up(tx: Tx, tables: int, words: dict[str, str]) -> None:
    """Makes what is missing, in the writing transaction of whoever opened the database.

    `tables`: the steps that were taken, 0 for an empty database. `words`: the dialect's, for `{id}` and `{bytes}`.
    """
    if tables > len(STEPS):
        raise StoreError(f"the store was made by a newer exeat (step {tables}; this one knows {len(STEPS)}): update it")
    for step in STEPS[tables:]:
        for statement in step.split(";\n"):
            if statement.strip():
                tx.do(statement.format_map(words))
    if tables == 0:
        tx.do("INSERT INTO settings VALUES ('step', ?)", str(len(STEPS)))
    elif tables < len(STEPS):
        tx.do("UPDATE settings SET value = ? WHERE name = 'step'", str(len(STEPS)))
