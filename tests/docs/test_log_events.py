"""docs/reference/log-events.md lists every log event of the code, with its level and fields."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.processes import StartServing, until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "log-events.md"
TABLES, _, ACCESS_LOG = PAGE.read_text().partition("\n## The access log\n")
OF_EVERY_LINE = {"event", "level", "timestamp", "part"}
LEVELS = {"debug", "info", "warning", "error"}
OTHER_METHODS = {"critical", "exception", "fatal", "log", "msg", "warn"}
NAME = re.compile(r"[a-z]+(?:_[a-z0-9]+)*")
ENDS = {  # an event that starts something, and the suffix of the one that ends it
    "_unreachable": "_reachable",
    "_mode_started": "_mode_ended",
    "_write_failed": "_write_recovered",
    "_down": "_up",
    "_serving": "_stopped",
}


class LogCall(NamedTuple):
    """One call of a logger in the code; `event` is empty if it is not a literal."""

    place: str
    event: str
    level: str
    fields: frozenset[str]


def is_logger(node: ast.expr) -> bool:
    """Whether this is `log`, `_log`, `logger(…)` or `logs.logger(…)`."""
    return re.fullmatch(r"_?log|(?:logs\.)?logger\(.*\)", ast.unparse(node)) is not None


def log_calls() -> Iterator[LogCall]:
    for path in sorted((ROOT / "sidecar").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS | OTHER_METHODS
                and is_logger(node.func.value)
            ):
                event = node.args[0] if len(node.args) == 1 else None
                literal = event.value if isinstance(event, ast.Constant) else None
                yield LogCall(
                    f"{path.relative_to(ROOT)}:{node.lineno}",
                    literal if isinstance(literal, str) else "",
                    node.func.attr,
                    frozenset(
                        "exception" if k.arg == "exc_info" else k.arg or "**" for k in node.keywords
                    ),
                )


LOG_CALLS = list(log_calls())


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Level and fields by event, from the tables."""
    rows = {}
    for line in TABLES.splitlines():
        if line.startswith("| `"):
            event, level, fields, meaning, remedy = re.split(r"\s*\|\s*", line)[1:-1]
            assert meaning.endswith(".") and remedy.endswith(".")
            rows[event.strip("`")] = level, frozenset(re.findall(r"`(\w+)`", fields))
    return rows


@pytest.mark.parametrize("call", LOG_CALLS, ids=lambda call: call.event or call.place)
def test_an_event_is_a_literal_name_with_a_known_level(call: LogCall) -> None:
    assert NAME.fullmatch(call.event), call
    assert call.level in LEVELS, call


def test_each_event_is_logged_in_one_place() -> None:
    counts = Counter(call.event for call in LOG_CALLS)
    assert len(counts) > 80
    assert [call for call in LOG_CALLS if counts[call.event] > 1] == []


def test_the_page_lists_every_event_with_its_level_and_fields() -> None:
    table = documented()
    assert table.keys() == {call.event for call in LOG_CALLS}
    for call in LOG_CALLS:
        level, fields = table[call.event]
        assert level == call.level, call
        if call.event != "request_ended":  # its fields are tested below
            assert fields == call.fields, call


def test_an_event_that_starts_something_has_one_that_ends_it() -> None:
    events = {call.event for call in LOG_CALLS}
    starts = {
        (event, event.removesuffix(start) + end)
        for event in events
        for start, end in ENDS.items()
        if event.endswith(start)
    }
    assert len(starts) >= 8
    assert {end for _, end in starts} <= events


async def test_the_fields_of_the_access_log_are_those_documented(serving: StartServing) -> None:
    here = await serving(access_log=True)
    for path, key in (("/items", "acme"), ("/items", "nobody"), ("/-/x", "acme")):
        await here.call(path, X_Api_Key=key)
    await until(lambda: len(here.said("request_ended")) == 3)
    rows = [line.split(" | ")[0] for line in ACCESS_LOG.splitlines() if line.startswith("| `")]
    fields = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    for line in here.said("request_ended"):
        assert line.keys() == fields - {"trace_id"} | OF_EVERY_LINE  # without traces
