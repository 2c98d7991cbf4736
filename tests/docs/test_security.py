"""Each threat in docs/explanation/security.md names tests that exist and that pytest collects."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text()
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows() -> Iterator[list[str]]:
    """The cells of each row of the tables."""
    for line in PAGE.splitlines():
        if line.startswith("| ") and not line.startswith(("| threat", "| place")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


ROWS = list(rows())


def test_the_page_has_a_row_for_each_threat() -> None:
    assert len(ROWS) >= 35
    assert len({cells[0] for cells in ROWS}) == len(ROWS)


@pytest.mark.parametrize("cells", ROWS, ids=lambda cells: cells[0][:50])
def test_each_threat_names_a_test_that_asserts_something(cells: list[str]) -> None:
    threat, protection, shown = cells
    assert threat and protection
    tests = TEST.findall(shown)
    assert tests, shown
    assert TEST.sub("", shown).strip(" ,") == ""
    for file, name in tests:
        path = ROOT / "tests" / file
        assert path.name.startswith("test_"), "pytest does not collect it"
        assert asserts(path, name), f"{file}::{name}"


def asserts(path: Path, name: str) -> bool:
    """Whether the file has a test of this name with an assertion, or a call that checks."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            text = ast.unparse(node)
            return bool(re.search(r"\bassert\b|raises\(|check\w*\(|validate\(|_judge\(", text))
    return False
