"""Tells in time what of the policies ends: as a verdict, in the journal, and each once, also over restarts."""

import json
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from exeat.core.endings import Ending, due
from exeat.model.record import Process, Record
from exeat.model.verdicts import Reason, Verdict
from exeat.whole_files import write_whole

_log = logging.getLogger("exeat")
_NOBODY = Process(0, "", 0)


class Notices:
    """What was told stands in a file, so that the next agent does not tell it again."""

    def __init__(self, memory: Path, take: Callable[[Record], None]) -> None:
        self.complaint = ""
        self._memory = memory
        self._take = take
        self._told = _read(memory)

    def tell(self, endings: Iterable[Ending]) -> None:
        """Tells what is due."""
        news = due(endings, self._told, datetime.now(UTC))
        for ending in news.notices:
            what = f"rule {ending.rule} of policy {ending.policy}" if ending.rule else f"policy {ending.policy}"
            sentence = f"{what} ends within {ending.days} days, at {ending.expires:%Y-%m-%dT%H:%M:%SZ}"
            _log.warning("%s: then it allows nothing", sentence)
            self._take(_record(ending, sentence))
        if news.told != self._told:
            self._told = news.told
            self._keep()

    def _keep(self) -> None:
        try:
            self._memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._memory, json.dumps(self._told).encode())
            self.complaint = ""
        except OSError as error:
            self.complaint = f"{self._memory}: {error.strerror}; what ends soon will be told again after a restart"


def _read(memory: Path) -> dict[str, int]:
    try:
        told = json.loads(memory.read_text(encoding="utf-8"))
        return {str(key): int(days) for key, days in told.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # then it is told once more
        return {}


def agent_record(
    reason: Reason, verdict: Verdict, evidence: str, *, workload: str = "", policy: str = "", rule: str | None = None,
    process: Process = _NOBODY, detail: int = 0,
) -> Record:  # fmt: skip
    """A line of the log that is about no packet."""
    return Record(
        time_ns=time.time_ns(),
        verdict=verdict,
        reason=reason,
        hook="agent",
        workload=workload,
        policy=policy,
        rule=rule,
        process=process,
        protocol=0,
        address=None,
        port=0,
        source=None,
        source_port=0,
        name=None,
        bytes=0,
        detail=detail,
        judged_ns=0,
        evidence=evidence,
    )


def _record(ending: Ending, sentence: str) -> Record:
    days, policy, rule = ending.days, ending.policy, ending.rule
    return agent_record(Reason.ENDS_SOON, Verdict.AUDIT, sentence, policy=policy, rule=rule, detail=days)
