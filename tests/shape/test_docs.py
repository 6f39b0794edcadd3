"""The documents say what the code says: reasons, fields of a verdict, exit codes."""

import json
import re
from pathlib import Path

from exeat.core.stories import STORIES
from exeat.core.verdict_text import json_line
from exeat.core.who_text import TEXTS
from exeat.kernel.abi import Hook
from exeat.model.verdicts import Reason, Verdict
from unit.record_words import any_record

DOCS = Path(__file__).parents[2] / "docs"
HOOKS = {hook.name.lower() for hook in Hook}


def rows(name: str) -> list[list[str]]:
    """The cells of every table row of a document, without heads and rules."""
    lines = [line for line in (DOCS / name).read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for at, row in enumerate(cells) if not set(row[0]) <= set("-") and not is_head(cells, at)]


def is_head(cells: list[list[str]], at: int) -> bool:
    """Whether the next row is the rule below a head."""
    return at + 1 < len(cells) and set(cells[at + 1][0]) == {"-"}


def example() -> dict[str, object]:
    """The line of JSON that docs/verdicts.md shows."""
    found = re.search(r"```json\n(.*)\n```", (DOCS / "verdicts.md").read_text())
    assert found
    parsed: dict[str, object] = json.loads(found[1])
    return parsed


def test_every_reason_has_a_story() -> None:
    """And no story is told of a reason that is not."""
    assert set(STORIES) == set(Reason)
    assert all(story.strip() == story and story for story in STORIES.values())


def test_reasons_md_is_the_table_of_every_reason() -> None:
    """Word, number and story, in the order of the numbers; and each row says what to do."""
    table = rows("reasons.md")
    assert [row[:2] + [row[3]] for row in table] == [
        [f"`{reason.word}`", str(reason.value), STORIES[reason]] for reason in sorted(Reason)
    ]
    assert all(row[4] for row in table)


def test_the_hooks_of_reasons_md_are_hooks() -> None:
    """A dash for what no hook gives today."""
    for row in rows("reasons.md"):
        assert set(row[2].split(", ")) <= HOOKS | {"-"}, row


def test_verdicts_md_names_exactly_the_fields_of_a_line() -> None:
    """In the order in which they are written; and so does its example."""
    emitted = json.loads(json_line(any_record()))
    named = [name for row in rows("verdicts.md") for name in re.findall(r"`(\w+)`", row[0])]
    assert named == [*emitted, *TEXTS, "labels"]  # those of `who` have a table of their own
    assert list(example()) == list(emitted)
    for field in ("process", "destination"):
        assert example()[field].keys() == emitted[field].keys()  # type: ignore[attr-defined]


def test_verdicts_md_names_every_verdict_and_hook() -> None:
    """A reader need not look into the source."""
    text = (DOCS / "verdicts.md").read_text()
    assert {verdict.name for verdict in Verdict} <= set(re.findall(r"`([A-Z]+)`", text))
    assert set(re.findall(r"`([a-z_]+)`", text)) >= HOOKS


def test_exit_codes_md_names_every_status_of_exeats_own() -> None:
    """What scripts ask for."""
    assert {"3", "125", "126", "127", "128+N"} <= {row[0] for row in rows("exit-codes.md")}
