"""A verdict in few words: what a test does not say is as in any other."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict

_ANY = Record(
    time_ns=1,
    verdict=Verdict.DROPPED,
    reason=Reason.NAME_NOT_ALLOWED,
    hook="hello",
    workload="/exeat.slice/run-1",
    policy="demo",
    rule=None,
    process=Process(1, "curl", 0),
    protocol=6,
    address=ip_address("203.0.113.11"),
    port=443,
    source=None,
    source_port=0,
    name="evil.test",
    bytes=517,
    detail=0,
    judged_ns=1,
)


def any_record(**said: Any) -> Record:
    """A denied hello of curl's, but for what is said."""
    return replace(_ANY, **said)
