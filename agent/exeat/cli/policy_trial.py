"""A policy on trial: what would come of an attempt, and of a question, decided by the gate's desk and by the kernel.

The rules are what is judged: a policy that only monitors is tried as if it enforced.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address

from exeat.core.cases import Attempt, Ruling
from exeat.core.cases_clock import stopped_at
from exeat.core.compile import compile_policy
from exeat.core.compile_rules import until_ns
from exeat.core.query_types import QUERY_TYPES
from exeat.dns.desk import Decision, Desk
from exeat.errors import KernelError
from exeat.kernel.abi import Outcome
from exeat.kernel.court import Bench, Court
from exeat.kernel.tables import Answer
from exeat.model.networks import Address, mapped
from exeat.model.policy import Mode, Policy, Protocol, Tunnel
from exeat.model.tables import TableSet
from exeat.model.verdicts import Reason

_NUMBERS = {Protocol.TLS: 6, Protocol.TCP: 6, Protocol.UDP: 17, Protocol.ICMP: 1}
# Where a name is taken to lead: addresses for documentation, which no policy that is in use has a network for.
_MADE_UP = tuple(map(ip_address, ("203.0.113.1", "198.51.100.1", "192.0.2.1", "2001:db8::1")))
_A = QUERY_TYPES["A"]


def refuse_without_root(command: str) -> None:
    """Raises KernelError: only root may load the judge."""
    if os.geteuid() != 0:
        raise KernelError(f"{command} asks the judge in the kernel, which only root may load: sudo exeat {command} ...")


class Trial:
    """One policy at one moment."""

    def __init__(self, policy: Policy, table_set: TableSet, bench: Bench) -> None:
        self.policy = policy
        self.table_set = table_set
        self._bench = bench
        dns = replace(policy.dns, tunnel=Tunnel.OFF)  # what looks like a tunnel depends on everything asked before
        self._desk = Desk(table_set, dns, lambda address, now_ns: ())
        covers = self._desk.resolvable.allows_special
        self._made_up = next((one for one in _MADE_UP if not covers(mapped(one))), _MADE_UP[0])

    @property
    def allows_icmp(self) -> bool:
        """Whether sockets for pings may be made."""
        return self.table_set.allows_icmp

    def question(self, name: str, kind: int) -> Ruling:
        """What the gate says to a question."""
        return _answered(self._decide(name, kind))

    def withholds(self, address: Address) -> bool:
        """Whether the gate takes an address out of answers."""
        packed, resolvable = mapped(address), self._desk.resolvable
        return resolvable.is_special(packed) and not resolvable.allows_special(packed)

    def attempt(self, attempt: Attempt) -> Ruling:
        """What would come of it: first the name is resolved, if there is one, then the kernel is asked."""
        if self.table_set.mode is Mode.QUARANTINE:
            return Ruling(False, Reason.QUARANTINED, None)
        if attempt.name is None or not attempt.is_resolved:
            return self._connect(attempt, attempt.address or self._made_up)
        decision = self._decide(attempt.name, _A)
        ruling = _answered(decision)
        if not ruling.is_allowed:
            return ruling
        if attempt.address is not None and self.withholds(attempt.address):
            return Ruling(False, Reason.ADDRESS_WITHHELD, ruling.rule)
        told = ip_address(decision.records[0].data) if decision.records else self._made_up  # localhost is told
        address = attempt.address or told
        with self._bench.granted(attempt.name, address, decision.ports_id):
            return self._connect(attempt, address)

    def _decide(self, name: str, kind: int) -> Decision:
        return self._desk.decide(name, kind, time.time_ns(), 0)

    def _connect(self, attempt: Attempt, address: Address) -> Ruling:
        protocol = _NUMBERS[attempt.protocol]
        answer = self._bench.ask(protocol, address, attempt.port)
        if answer.outcome is not Outcome.ASK_NAME:
            return self._ruling(answer)
        if attempt.name is None:
            return Ruling(False, Reason.SNI_MISSING, self._rule(answer))
        if attempt.protocol is not Protocol.TLS:
            return Ruling(False, Reason.NOT_TLS, self._rule(answer))
        return self._ruling(
            self._bench.ask(protocol, address, attempt.port, name=attempt.name, has_ech=attempt.has_ech)
        )

    def _ruling(self, answer: Answer) -> Ruling:
        return Ruling(answer.outcome is Outcome.ALLOW, answer.reason or Reason.HELPER_FAILED, self._rule(answer))

    def _rule(self, answer: Answer) -> str | None:
        return self.table_set.rule_names[answer.rule - 1] if answer.rule else None


def _answered(decision: Decision) -> Ruling:
    return Ruling(decision.reason is Reason.RESOLVED, decision.reason, decision.rule)


@contextmanager
def trial(court: Court, policy: Policy, moment: datetime) -> Iterator[Trial]:
    """A policy's trial as of a moment."""
    table_set = stopped_at(compile_policy(policy), until_ns(moment))
    if table_set.mode is not Mode.QUARANTINE:
        table_set = replace(table_set, mode=Mode.ENFORCE)
    with court.hearing(table_set) as bench:
        yield Trial(policy, table_set, bench)
