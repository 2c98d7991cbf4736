"""The docs agree with the code: links work, names exist, and every command is documented."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar.cli import build

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*TOP, *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_has_a_target(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path) if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_readme_links_to_the_index_and_the_index_to_every_page() -> None:
    index = DOCS / "README.md"
    assert name_of(index) in {path for path, _ in LINK.findall((ROOT / "README.md").read_text())}
    linked = {(DOCS / path).resolve() for path, _ in LINK.findall(index.read_text())}
    assert {page for page in DOCS.rglob("*.md") if page != index} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_link_to_a_decision_has_the_number_of_its_page(page: Path) -> None:
    text = re.sub(r"\s+", " ", page.read_text())
    for number, path in re.findall(r"\[decision (\d+)[^\]]*\]\(([^)]+)\)", text):
        assert Path(path).name.startswith(f"{number}-"), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = r"`((?:sidecar|tests|loadtests|examples|docs)/[\w./-]*\w(?:\.\w+)?)`"
    for path in re.findall(named, page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= targets


def commands_of(command: Any, path: str = "") -> Iterator[tuple[str, set[str]]]:
    """Each command with its options: ("keys list", {"--account", …})."""
    inner = getattr(command, "commands", None)
    if inner is not None:
        for word, subcommand in inner.items():
            yield from commands_of(subcommand, f"{path} {word}".strip())
        return
    options = [param for param in command.params if param.param_type_name == "option"]
    yield path, {name for option in options for name in (*option.opts, *option.secondary_opts)}


COMMANDS = dict(commands_of(typer.main.get_command(build())))


def section(command: str) -> str:
    """The section of docs/reference/cli.md for the command or its group."""
    page = (DOCS / "reference" / "cli.md").read_text()
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        if command.split()[0] in re.split(r"\W+", part.splitlines()[0]):
            return part
    return ""


def documented(command: str) -> dict[str, str]:
    """Option → the cell with the commands that have it, "all" without such a cell."""
    options = {}
    for row in section(command).splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if cells[0].startswith("`-"):
            scope = cells[1] if len(cells) == 3 else "all"
            options |= dict.fromkeys(re.findall(r"`(--?[\w-]+)", cells[0]), scope)
    return options


def covers(scope: str, command: str) -> bool:
    if scope.startswith(("all", "both")):
        return f"but `{command}`" not in scope
    return f"`{command}`" in scope


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"serve"}))
def test_the_docs_have_exactly_the_options_of_a_command(command: str) -> None:
    written = {name for name, scope in documented(command).items() if covers(scope, command)}
    assert written == COMMANDS[command]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_line_on_a_page_is_valid(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^    \$? ?(?:\w+=\S+ )?sidecar (.+)$", text, re.MULTILINE):
        words = re.split(r"\s+#|\s+[>|…]", line)[0].split()
        names = (" ".join(words[:2]), words[0])
        command = next((name for name in names if name in COMMANDS), None)
        assert command is not None, line
        options = {word.split("=")[0] for word in words if word.startswith("-")}
        assert options <= COMMANDS[command], line


# The life of a request

LIFE = DOCS / "explanation" / "architecture.md"
NAMED = re.compile(r"\[`([\w.]+)`\]\(\.\./\.\./([\w/.]+)\)")


def test_the_life_of_a_request_names_existing_code() -> None:
    for name, path in NAMED.findall(LIFE.read_text()):
        text = (ROOT / path).read_text()
        if name != Path(path).name:
            for part in name.split("."):
                assert re.search(rf"^ *(?:async )?(?:def|class) {part}\b", text, re.MULTILINE), name


def test_the_boxes_of_the_life_of_a_request_are_in_its_table() -> None:
    drawn, _, table = LIFE.read_text().partition("| step |")
    names = {name.rpartition(".")[2] for name, _ in NAMED.findall(table)}
    ports = (ROOT / "sidecar" / "ports.py").read_text()
    for box in re.findall(r"│ +([\w.]+(?:, \w+)*) +│", drawn):
        for name in box.split(", "):
            last = name.rpartition(".")[2]
            assert last in names or f"def {last}(" in ports, name
