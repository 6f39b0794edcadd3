"""`exeat run` where an agent runs: the command's cgroup is registered with it, and its verdicts come from there.

No program is compiled and none attached: the agent's judge every cgroup. If the agent dies, the kernel goes on.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from exeat.control.client import connect
from exeat.control.convert import from_wire
from exeat.core.policy_text import policy_document
from exeat.core.session_token import claimed_subject
from exeat.errors import AgentUnavailable, ExeatError, Refused, StatusWord
from exeat.kernel.tables import WorkloadTraffic
from exeat.launch import Launch, Leaf
from exeat.model.verdicts import Verdict
from exeat.report import Report
from exeat.run import DENIED_STATUS, Run, open_verdicts, raise_if_unwritten
from exeat.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from exeat.control.asking import AgentClient

_TOLD_WITHIN_S = 2.0  # what is counted at the end is told by then, if nothing was lost
_AGENT_BACK_S = 5.0


def run_by_agent(wanted: Run, socket: Path) -> int:
    """Runs the command to its end; the status to exit with."""
    verdicts = open_verdicts(wanted.verdicts_file)
    report = Report(verdicts, None if wanted.is_quiet else sys.stderr)
    environment = dict(os.environ)  # the command's: what is set here for gRPC is no matter of its
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # no channel is open while the command is forked
    try:
        with Launch.prepare(wanted.argv, wanted.identity, _forget, environment) as launch:
            began_ns = time.time_ns()
            workload = _register(wanted, launch, socket)
            launch.start()
            telling = _Telling(report, socket, workload, began_ns)
            telling.start()
            status = launch.wait()
            last = _unregister(workload.name, socket)
        telling.finish(last.traffic if last else None)
    finally:
        if verdicts:
            verdicts.close()
    traffic = _traffic(last.traffic if last else pb.Traffic())
    report.summarise(traffic, {}, telling.lost)
    raise_if_unwritten(report, wanted.verdicts_file)
    was_denied = any(count for verdict, count in traffic.verdicts.items() if verdict is not Verdict.FORWARDED)
    return DENIED_STATUS if status == 0 and wanted.fails_on_deny and was_denied else status


def _forget(leaf: Leaf) -> None:
    """Nothing: the agent sees that the cgroup has gone."""


def _register(wanted: Run, launch: Launch, socket: Path) -> pb.Workload:
    # The channel is closed before the command is forked.
    with connect(socket) as agent:
        request = pb.RegisterRequest(
            name=_subject(wanted.session) if wanted.session else launch.leaf.name,
            cgroup=launch.cgroup_path,
            policy_text=json.dumps(policy_document(wanted.policy)),
            source="run",
            session=wanted.session,
        )
        return agent.register(request).workload


def _subject(session: str) -> str:
    """The run is registered as the workload that its session context is for; whether that is signed, the agent sees."""
    try:
        return claimed_subject(session)
    except ValueError as error:
        raise Refused(StatusWord.INVALID, str(error)) from error


def _unregister(name: str, socket: Path) -> pb.Workload | None:
    """The workload as it was at the end; an agent that is just being restarted is waited for."""
    deadline = time.monotonic() + _AGENT_BACK_S
    while True:
        try:
            with connect(socket) as agent:
                return agent.unregister(pb.UnregisterRequest(workload=name)).workload
        except AgentUnavailable as error:
            if time.monotonic() > deadline:
                print(f"exeat: {error}; what was denied at the end is in its log", file=sys.stderr)
                return None
            time.sleep(0.1)


def _traffic(traffic: pb.Traffic) -> WorkloadTraffic:
    verdicts = {
        Verdict.FORWARDED: traffic.forwarded,
        Verdict.DROPPED: traffic.dropped,
        Verdict.AUDIT: traffic.audit,
        Verdict.ERROR: traffic.error,
    }
    return WorkloadTraffic(traffic.packets_out, traffic.bytes_out, traffic.packets_in, traffic.bytes_in, verdicts)


class _Telling:
    """A thread that reads the workload's verdicts from the agent, also from one that was started anew."""

    def __init__(self, report: Report, socket: Path, workload: pb.Workload, began_ns: int) -> None:
        self.lost = 0
        self._report = report
        self._socket = socket
        self._cgroup = workload.cgroup
        self._since_ns = began_ns
        self._told = 0
        self._is_over = False
        self._agent: AgentClient | None = None
        self._at_last: set[object] = set()  # told, with the time of the last one
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="verdicts", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def finish(self, traffic: pb.Traffic | None) -> None:
        """Returns when all is told that was counted, or has had its time."""
        counted = traffic.forwarded + traffic.dropped + traffic.audit + traffic.error if traffic else 0
        with self._news:
            self._news.wait_for(lambda: self._told + self.lost >= counted, _TOLD_WITHIN_S)
            self._is_over = True
            agent = self._agent
        if agent:
            agent.close()
        self._thread.join(_TOLD_WITHIN_S)

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._read()
            except (ExeatError, ValueError):  # it is being restarted, and finds its log again; or we have hung up
                time.sleep(0.1)

    def _read(self) -> None:
        request = pb.WatchVerdictsRequest(follow=True, filter=pb.VerdictFilter(workload=self._cgroup))
        request.since.FromNanoseconds(self._since_ns)
        with connect(self._socket) as agent:
            self._agent = agent
            for response in agent.watch_verdicts(request):
                with self._news:
                    self.lost += response.lost
                    for message in response.verdicts:
                        self._take(message)
                    self._news.notify_all()

    def _take(self, message: object) -> None:
        record = from_wire(message)  # type: ignore[arg-type]
        if record.hook == "agent":
            return  # that it was registered; of no interest to who runs a command
        if record.time_ns <= self._since_ns and record in self._at_last:
            return  # of the log, and told before the agent was started anew
        if record.time_ns > self._since_ns:
            self._since_ns, self._at_last = record.time_ns, set()
        self._at_last.add(record)
        self._told += record.count
        self._report.take(record)
