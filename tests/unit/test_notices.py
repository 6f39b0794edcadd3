"""What ends soon is told as a verdict, once for each threshold, also by the next agent."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from exeat.agent.notices import Notices
from exeat.core.endings import upcoming
from exeat.core.verdict_reading import read_line
from exeat.core.verdict_text import json_line, line_for_people
from exeat.model.policy import Policy
from exeat.model.record import Record
from exeat.model.verdicts import Reason, Verdict

POLICY = Policy("coder", expires=datetime.now(UTC) + timedelta(days=2))


def test_an_ending_is_told_once_also_by_the_next_agent(tmp_path: Path) -> None:
    """And anew when it comes nearer, or was put off."""
    told: list[Record] = []
    endings = upcoming([POLICY], datetime.now(UTC))
    for _ in range(2):
        Notices(tmp_path / "told.json", told.append).tell(endings)
    assert [(record.verdict, record.reason, record.policy, record.detail) for record in told] == [
        (Verdict.AUDIT, Reason.ENDS_SOON, "coder", 3)
    ]
    assert "policy coder ends within 3 days" in (told[0].evidence or "")
    later = upcoming([Policy("coder", expires=datetime.now(UTC) + timedelta(hours=5))], datetime.now(UTC))
    Notices(tmp_path / "told.json", told.append).tell(later)
    assert [record.detail for record in told] == [3, 1]


def test_the_verdict_can_be_written_and_read(tmp_path: Path) -> None:
    """As any other."""
    told: list[Record] = []
    Notices(tmp_path / "told.json", told.append).tell(upcoming([POLICY], datetime.now(UTC)))
    assert read_line(json_line(told[0]), "here") == told[0]
    assert "ends_soon; policy coder" in line_for_people(told[0])


def test_a_file_that_cannot_be_read_or_written_is_said_and_harms_nothing(tmp_path: Path) -> None:
    """It is told once more, no less."""
    memory = tmp_path / "told.json"
    memory.write_text("[1, 2")
    told: list[Record] = []
    Notices(memory, told.append).tell(upcoming([POLICY], datetime.now(UTC)))
    assert len(told) == 1
    blocked = tmp_path / "file" / "told.json"
    (tmp_path / "file").write_text("")
    notices = Notices(blocked, told.append)
    notices.tell(upcoming([POLICY], datetime.now(UTC)))
    assert len(told) == 2
    assert "told again" in notices.complaint
