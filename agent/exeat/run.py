"""Composition root of `exeat run`: one command, one leaf cgroup, one instance of the programs, one policy, one gate."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

from exeat.core.compile import compile_policy
from exeat.core.compile_rules import until_ns
from exeat.core.propose import Learned
from exeat.dns.resolv_conf import host_servers
from exeat.errors import LaunchError
from exeat.gate_thread import GateThread
from exeat.gatehouse import Gatehouse
from exeat.kernel.instance import Instance, remove_instance
from exeat.kernel.programs import ENFORCING
from exeat.kernel.sweep import cut_all
from exeat.kernel.tables import Tables, WorkloadTraffic
from exeat.kernel.telling import Naming
from exeat.kernel.watch import Watch, Watched
from exeat.launch import Identity, Launch, Leaf
from exeat.ledger import Ledger
from exeat.model.networks import mapped
from exeat.model.policy import Policy
from exeat.model.record import Record
from exeat.model.verdicts import Verdict
from exeat.report import Report

DENIED_STATUS = 3


@dataclass(frozen=True, slots=True)
class Run:
    """What `exeat run` was asked to do."""

    argv: Sequence[str]
    identity: Identity
    policy: Policy
    verdicts_file: Path | None
    fails_on_deny: bool
    is_quiet: bool
    learn_file: Path | None = None
    session: str = ""  # a signed session context, for the agent


def forget(leaf: Leaf) -> None:
    """Takes what a run left in the kernel out of it. Its sockets first: once no program runs, what they hold leaves."""
    instance = Instance(leaf.name)
    if instance.is_attached():  # else nothing was stamped, and the maps may not all be there yet
        try:
            cut_all(instance, leaf.cgroup_id)
        finally:
            instance.close()
    remove_instance(leaf.name)


def run(wanted: Run) -> int:
    """Runs the command to its end; the status to exit with."""
    table_set = compile_policy(wanted.policy)
    verdicts = open_verdicts(wanted.verdicts_file)
    report = Report(verdicts, None if wanted.is_quiet else sys.stderr)
    learned = Learned() if wanted.learn_file else None
    if wanted.learn_file:
        _write(wanted.learn_file, "", mode="a")  # what cannot be written is said before the command runs, not after

    def take(record: Record) -> None:
        report.take(record)
        if learned:
            learned.saw(record, gatehouse.names_of(mapped(record.address)) if record.address else ())

    try:
        with Launch.prepare(wanted.argv, wanted.identity, forget) as launch:
            instance = Instance(launch.leaf.name)
            instance.load(ENFORCING)
            tables = Tables(instance)
            policy_id = tables.add(table_set)
            tables.switch(launch.cgroup_id, policy_id)
            instance.attach(launch.directory)
            watched = Watched(
                cgroup=launch.cgroup_id,
                workloads={launch.cgroup_id: launch.cgroup_path},
                policies={policy_id: Naming(table_set.policy_name, table_set.rule_names)},
                policy_id=policy_id,
                ends_ns=_ends_ns(wanted.policy),
            )
            thread = GateThread()
            ledger = Ledger(instance, policy_id, table_set, wanted.policy.dns)
            gatehouse = Gatehouse(thread, launch.cgroup_id, launch.cgroup_path, ledger, host_servers(), take)
            gatehouse.open()
            launch.start()
            watch = Watch(instance, tables, watched, take)
            watch.start()
            thread.start()
            status = launch.wait()
        thread.finish()
        watch.finish()
        traffic = tables.traffic(launch.cgroup_id)
        report.summarise(traffic, gatehouse.counts, tables.lost_events())
        instance.close()
        if learned and wanted.learn_file:
            _write_learned(wanted.learn_file, learned, wanted.argv)
    finally:
        if verdicts:
            verdicts.close()
    raise_if_unwritten(report, wanted.verdicts_file)
    return DENIED_STATUS if status == 0 and wanted.fails_on_deny and _was_denied(traffic, gatehouse) else status


def raise_if_unwritten(report: Report, path: Path | None) -> None:
    """Whoever asked for a file must hear that it is not whole."""
    if report.unwritten:
        raise LaunchError(f"{report.unwritten} verdicts were not written to {path}: {report.why_unwritten}")


def open_verdicts(path: Path | None) -> BinaryIO | None:
    """The file that verdicts are appended to."""
    try:
        return path.open("ab", buffering=0) if path else None
    except OSError as error:
        raise LaunchError(f"cannot write verdicts to {path}: {error.strerror}") from error


def _ends_ns(policy: Policy) -> tuple[int, ...]:
    """When something of a policy ends: open connections are looked at then, also idle ones."""
    ends = {end for end in (policy.expires, *(rule.expires for rule in policy.rules)) if end}
    return tuple(sorted(until_ns(end) for end in ends))


def _was_denied(traffic: WorkloadTraffic, gatehouse: Gatehouse) -> bool:
    counts = (*traffic.verdicts.items(), *gatehouse.counts.items())
    return any(count for verdict, count in counts if verdict is not Verdict.FORWARDED)


def _write_learned(path: Path, learned: Learned, argv: Sequence[str]) -> None:
    _write(path, learned.policy_text("learned", shlex.join(argv), datetime.now(UTC)))


def _write(path: Path, text: str, *, mode: Literal["a", "w"] = "w") -> None:
    try:
        with path.open(mode, encoding="utf-8") as learned:
            learned.write(text)
    except OSError as error:
        raise LaunchError(f"cannot write the learned policy to {path}: {error.strerror}") from error
