"""The guides name what there is: every reason, tests that exist, pages that exist; and every page is in the index."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from exeat.model.verdicts import Reason
from shape.test_docs import DOCS, rows

REPOSITORY = DOCS.parent
PAGES = sorted(path.name for path in DOCS.glob("*.md"))


def defined_in(path: Path) -> set[str]:
    """The tests that a file defines."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def cited(page: str) -> set[tuple[str, str]]:
    """What a page names as `e2e/test_file::test_name`, or `e2e/test_file`."""
    found = re.findall(r"`((?:\w+/)+test_\w+?)(?:\.py)?(?:::(\w+))?`", (DOCS / page).read_text())
    return {(file.removeprefix("tests/"), test) for file, test in found}


def anchors(page: str) -> set[str]:
    """What can stand behind # in a link to this page."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", (DOCS / page).read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_troubleshooting_has_each_reason_once() -> None:
    """Under the symptom by which people meet it."""
    words = [row[0].strip("`") for row in rows("troubleshooting.md") if re.fullmatch(r"`[a-z0-9_]+`", row[0])]
    assert sorted(words) == sorted(reason.word for reason in Reason)


def test_every_claim_of_the_threat_model_has_its_test() -> None:
    """A row without one says that it is not shown."""
    table = [row for row in rows("threat-model.md") if len(row) == 3]
    assert len(table) > 30
    for row in table:
        assert "`" in row[2] or "not shown" in row[2], row


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_a_page_names_exist(page: str) -> None:
    """By file and name; `*` stands for several files."""
    for file, test in cited(page):
        path = REPOSITORY / "tests" / f"{file}.py"
        assert path.is_file(), f"{page}: {file}"
        assert not test or test in defined_in(path), f"{page}: {file}::{test}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_what_is_there(page: str) -> None:
    """To pages, files and headings of the repository."""
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", (DOCS / page).read_text(), flags=re.DOTALL)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = DOCS / (name or page)
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.name), f"{page}: {link}"


def test_the_index_has_every_page_once() -> None:
    """In the order in which one reads."""
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text())
    assert sorted(listed) == sorted(set(PAGES) - {"README.md"})
