"""What `exeat run` tells the person at the terminal, and writes down for machines."""

import threading
from collections.abc import Mapping
from typing import BinaryIO, TextIO

from exeat.core.verdict_text import json_line, line_for_people, subject_of
from exeat.kernel.tables import WorkloadTraffic
from exeat.model.record import Record
from exeat.model.verdicts import Verdict

_REMEMBERED = 10_000  # destinations; beyond, a scan would fill the memory with what nobody reads


class Report:
    """Collects records as they come: from the kernel's ring by one thread, from the gate by another."""

    def __init__(self, verdicts: BinaryIO | None, terminal: TextIO | None) -> None:
        self._verdicts = verdicts  # unbuffered: whole lines, also where two runs append to one file
        self._terminal = terminal
        self._denied: set[int] = set()  # hashes: names may be long, and are chosen by the command
        self._one_at_a_time = threading.Lock()
        self.unwritten = 0
        self.why_unwritten = ""

    def take(self, record: Record) -> None:
        """One more verdict: every one is written down, the first denial of each destination is shown."""
        with self._one_at_a_time:
            self._take(record)

    def _take(self, record: Record) -> None:
        if self._verdicts:
            self._write(self._verdicts, json_line(record).encode() + b"\n")
        if not record.is_denial:
            return
        what = hash((subject_of(record), record.reason.word))
        if what in self._denied or len(self._denied) >= _REMEMBERED:
            return
        self._denied.add(what)
        self._show(line_for_people(record))

    def summarise(self, traffic: WorkloadTraffic, questions: Mapping[Verdict, int], lost: int) -> None:
        """The last line; counts are the kernel's and the gate's own and include what was lost on the way here."""
        counts = {verdict: traffic.verdicts[verdict] + questions.get(verdict, 0) for verdict in Verdict}
        parts = [f"{counts[Verdict.FORWARDED]} allowed", f"{counts[Verdict.DROPPED]} denied"]
        if counts[Verdict.AUDIT]:
            parts.append(f"{counts[Verdict.AUDIT]} would be denied")
        if counts[Verdict.ERROR]:
            parts.append(f"{counts[Verdict.ERROR]} denied by failures of exeat")
        if self._denied:
            parts[1] += f" ({len(self._denied)} different)"
        parts.append(f"{traffic.bytes_out} bytes out, {traffic.bytes_in} in")
        if lost:
            parts.append(f"{lost} verdicts lost before they could be shown")
        if self.unwritten:
            parts.append(f"{self.unwritten} verdicts not written: {self.why_unwritten}")
        self._show(f"exeat: {', '.join(parts)}")

    def _write(self, verdicts: BinaryIO, line: bytes) -> None:
        try:
            if verdicts.write(line) == len(line):
                return
            self.why_unwritten = "the file takes no more"
        except OSError as error:
            self.why_unwritten = str(error.strerror)
        self.unwritten += 1

    def _show(self, line: str) -> None:
        if not self._terminal:
            return
        try:
            self._terminal.write(line + "\n")
            self._terminal.flush()
        except OSError:  # whoever read it has gone; the command goes on
            self._terminal = None
