"""Which replica follows the cluster: one, by a row of the common store.

Clocks decide only who becomes the next one. That no two write is certain without them: whoever places policies asks in
the same transaction whether the row still names it.
"""

import json

from exeat.errors import ExeatError
from exeat.plane.policies.policy_rows import lock
from exeat.plane.store.database import Tx

LEASE_NS = 15 * 1_000_000_000
RENEW_S = 5.0
_ROW = "cluster leader"


class Lost(ExeatError):
    """Another replica follows the cluster now."""


def take(tx: Tx, who: str, now_ns: int, *, is_alone: bool) -> bool:
    """Takes it or prolongs it; False: another one has it. `is_alone`: nobody else can be at this store."""
    lock(tx)
    tx.do("INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", _ROW, json.dumps(["", 0]))
    has, until_ns = _read(tx)
    if has != who and now_ns < until_ns and not is_alone:
        return False
    _write(tx, who, now_ns + LEASE_NS)
    return True


def check(tx: Tx, who: str) -> None:
    """For a transaction that has locked. Raises Lost."""
    if _read(tx)[0] != who:
        raise Lost("another replica follows the cluster now")


def release(tx: Tx, who: str) -> None:
    """The next one need not wait."""
    lock(tx)
    if _read(tx)[0] == who:
        _write(tx, "", 0)


def _read(tx: Tx) -> tuple[str, int]:
    row = tx.one("SELECT value FROM settings WHERE name = ?", _ROW)
    has, until_ns = json.loads(row[0]) if row else ("", 0)
    return has, until_ns


def _write(tx: Tx, who: str, until_ns: int) -> None:
    tx.do("UPDATE settings SET value = ? WHERE name = ?", json.dumps([who, until_ns]), _ROW)
