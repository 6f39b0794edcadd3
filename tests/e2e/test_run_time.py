"""What happens later: rules that end during a run, sockets that the backstop has silenced, data left in dead ones."""

import errno
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bed import Finished
from e2e.run_exeat import PYTHON, Stage, denials, open_stage, verdicts

PATIENCE_S = 3  # how long a denied server is watched: retransmissions come after 0.2, 0.6, 1.4 and 3 s


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One stage for the whole file."""
    with open_stage() as it:
        yield it


@pytest.fixture(scope="module")
def start_up_s(stage: Stage) -> float:
    """How long exeat takes to start a command on this machine now."""
    return stage.run("true").duration


EXPIRING = """\
apiVersion: exeat.dev/v1
kind: EgressPolicy
metadata: {{name: expiring}}
spec:
  owner: tests@example.com
  reason: "a rule that ends during the run"
  egress:
  - name: short
    cidrs: [{shop}]
    ports: [7]
    protocol: tcp
    expires: "{end}"
  - name: long
    cidrs: [{evil}]
    ports: [7]
    protocol: tcp
    expires: "2999-01-01T00:00:00Z"
"""

# Two idle connections, of which only one is to the end's address. Says what becomes of them, and of a new one.
IDLER = """
import json, select, socket, sys, time

def greeted(address):
    connection = socket.create_connection((address, 7), 5)
    connection.send(b"x")
    assert connection.recv(99), "the server said nothing"
    return connection

def outcome(do):
    try:
        return do() and 0
    except OSError as error:
        return error.errno

ends, stays = greeted(sys.argv[1]), greeted(sys.argv[2])
opened = time.time()
select.select([ends], [], [], 30)
cut = time.time()
print(json.dumps({
    "opened": opened,
    "cut": cut,
    "ended": outcome(lambda: ends.recv(9)),
    "again": outcome(lambda: greeted(sys.argv[1])),
    "stays": outcome(lambda: stays.send(b"y") and stays.recv(9)),
}))
"""


def test_a_rule_that_ends_cuts_its_idle_connection_and_no_other(stage: Stage, start_up_s: float) -> None:
    """At its time, with an error for the program; a new connection is denied, a rule that goes on is untouched."""
    end = datetime.now(UTC) + timedelta(seconds=2 * start_up_s + 3)
    shop, evil = (", ".join(f'"{address}"' for address in host.addresses) for host in (stage.shop, stage.evil))
    policy = stage.file("expiring.yaml", EXPIRING.format(shop=shop, evil=evil, end=f"{end:%FT%T.%fZ}"))
    path = stage.directory / "expired.json"
    argv = (PYTHON, "-c", IDLER, stage.shop.address4, stage.evil.address4)
    ran = stage.run(*argv, policy=policy, options=("--verdicts", str(path)))
    told = json.loads(ran.stdout)
    assert told["opened"] < end.timestamp(), "exeat took too long to start"
    assert 0 <= told["cut"] - end.timestamp() < 1
    assert (told["ended"], told["again"], told["stays"]) == (errno.ECONNABORTED, errno.EPERM, 0)
    assert [(line["reason"], line["rule"], line["hook"]) for line in verdicts(path)] == [
        ("network_allowed", "short", "connect"),
        ("network_allowed", "long", "connect"),
        ("rule_expired", "short", "packet"),  # the reset with which the kernel would have ended it
        ("rule_expired", "short", "connect"),
    ]
    assert [line.split("[")[-1] for line in denials(ran.stderr)] == ["rule_expired; policy expiring, rule short]"]


# Data that no hook has read: it is handed to the kernel together with the connect.
UNREAD = """
import json, socket, sys, time

family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
connection = socket.socket(family)
connection.settimeout(20)
began = time.monotonic()
steps = []
try:
    steps.append("send")
    connection.sendto(b"GET / HTTP/1.0\\r\\n\\r\\n", socket.MSG_FASTOPEN, (sys.argv[1], int(sys.argv[2])))
    steps.append("receive")
    print(json.dumps([steps[-1], connection.recv(99).decode(), time.monotonic() - began]))
except OSError as error:
    print(json.dumps([steps[-1], error.errno, time.monotonic() - began]))
"""


@pytest.mark.parametrize("family", ["address4", "address6"])
def test_a_socket_whose_data_the_backstop_dropped_is_ended_at_once(family: str, stage: Stage) -> None:
    """Fast Open data to a tls rule: an error within a second instead of minutes of silence, and not one byte there."""
    stage.reset()
    ran = stage.run(PYTHON, "-c", UNREAD, getattr(stage.evil, family), "443")
    step, error, seconds = json.loads(ran.stdout)
    assert error in (errno.ECONNABORTED, errno.EACCES, errno.EPERM), (step, error)
    assert seconds < 1
    assert len(denials(ran.stderr)) == 1
    assert "unverified_data" in ran.stderr
    assert stage.evil.count().bytes == 0


@pytest.mark.parametrize("family", ["address4", "address6"])
def test_the_same_fast_open_data_arrives_where_no_name_is_asked_for(family: str, stage: Stage) -> None:
    """The twin: the very same call to a tcp rule, and the server answers."""
    stage.reset()
    ran = stage.run(PYTHON, "-c", UNREAD, getattr(stage.evil, family), "7")
    assert json.loads(ran.stdout)[1].startswith("I am evil")
    assert stage.evil.count().bytes == len(b"GET / HTTP/1.0\r\n\r\n")


ORPHANS = """
import os, socket, sys

for address in sys.argv[2:]:
    for _ in range(4):
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        connection.setblocking(False)
        try:
            connection.sendto(b"secret " * 40, socket.MSG_FASTOPEN, (address, int(sys.argv[1])))
        except BlockingIOError:
            continue
os._exit(0)
"""


def leave(stage: Stage, port: int, *, is_free: bool = False) -> Finished:
    """Queues data to the host by Fast Open and exits at once; what is in the queues is the kernel's then."""
    stage.reset()
    argv = (PYTHON, "-c", ORPHANS, str(port), stage.evil.address4, stage.evil.address6)
    return stage.without_exeat(*argv) if is_free else stage.run(*argv)


def test_what_a_command_queued_and_left_behind_never_leaves(stage: Stage) -> None:
    """Its sockets outlive it, and would outlive the programs: the server gets nothing for seconds after the end."""
    free = leave(stage, 443, is_free=True)
    assert free.returncode == 0
    assert received_within(stage, PATIENCE_S / 3) == 2 * 4 * len(b"secret " * 40)
    assert leave(stage, 443).returncode == 0
    assert received_within(stage, PATIENCE_S) == 0


def test_what_a_command_queued_and_was_allowed_to_send_is_delivered(stage: Stage) -> None:
    """The twin under exeat: a tcp rule, the same data, the same early exit."""
    assert leave(stage, 7).returncode == 0
    assert received_within(stage, PATIENCE_S / 3) > 0


def received_within(stage: Stage, seconds: float) -> int:
    """What the host has read after this time."""
    time.sleep(seconds)
    return stage.evil.count().bytes
