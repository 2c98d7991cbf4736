"""docs/reference/log-events.md has the access log's fields, and only events of the code."""

import re
from pathlib import Path

from tests.support.processes import StartServing, until

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "reference" / "log-events.md").read_text()
OF_EVERY_LINE = {"event", "level", "timestamp", "part"}


def first_cells(text: str) -> set[str]:
    """All names in the first column of the tables of this text."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


async def test_the_documented_fields_of_the_access_log_are_those_it_has(
    serving: StartServing,
) -> None:
    here = await serving(access_log=True)
    for path, key in (("/items", "acme"), ("/items", "nobody"), ("/-/x", "acme")):
        await here.call(path, X_Api_Key=key)
    await until(lambda: len(here.said("request_ended")) == 3)
    documented = first_cells(DOCS[DOCS.index("## The access log") :])
    for line in here.said("request_ended"):
        assert line.keys() == documented | OF_EVERY_LINE


def test_every_documented_line_is_in_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "sidecar").rglob("*.py"))
    events = first_cells(DOCS[: DOCS.index("## The access log")])
    assert len(events) > 8
    assert not [event for event in events if f'"{event}"' not in code]
