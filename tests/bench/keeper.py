"""Run as a program: the gate of a workload, in a process of its own as in `exeat run`. Serves until its input ends.

    python -m bench.keeper INSTANCE CGROUP POLICY_ID UPSTREAM

Says "ready", and at the end how many questions it answered.
"""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path

from e2e.guard import rule
from exeat.core.compile import compile_policy
from exeat.core.names import parse_host_pattern
from exeat.gate_thread import GateThread
from exeat.gatehouse import Gatehouse
from exeat.kernel.instance import Instance
from exeat.ledger import Ledger
from exeat.model.policy import Policy, PortRange, Protocol, Rule, Server
from exeat.model.verdicts import Verdict
from exeat.report import Report

KNOWN, FRESH, PORT_REACHED = 100, 3000, 5005  # Twin: ask.c


def names_policy() -> Policy:
    """What the client of the DNS benchmarks may resolve and reach, each name named, and a few networks beside."""
    names = [f"k{number}.bench.test" for number in range(KNOWN)] + [f"f{number}.bench.test" for number in range(FRESH)]
    hosts = tuple(parse_host_pattern(name) for name in names)
    networks = tuple(rule(f"20.0.{number}.0/24", ports=(5432,)) for number in range(4))
    return Policy(
        "test", (Rule("names", Protocol.TCP, hosts, ports=(PortRange(PORT_REACHED, PORT_REACHED),)), *networks)
    )


def main() -> None:
    """Keeps the gate."""
    name, cgroup, policy_id, upstream = sys.argv[1:]
    policy = names_policy()
    thread = GateThread()
    ledger = Ledger(Instance(name), int(policy_id), compile_policy(policy), policy.dns)
    workload, servers = Path(cgroup).stat().st_ino, (Server(ip_address(upstream)),)
    gatehouse = Gatehouse(thread, workload, cgroup, ledger, servers, Report(None, None).take)
    gatehouse.open()
    thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    thread.finish()
    print(gatehouse.counts[Verdict.FORWARDED], sum(gatehouse.counts.values()), flush=True)


if __name__ == "__main__":
    main()
