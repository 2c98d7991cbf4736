"""One small invalid file per rule. Its first lines are the problems that must be reported."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sidecar.config.loading import parse
from sidecar.config.schema import schema
from sidecar.errors import ConfigError

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
EXAMPLE = Path(__file__).parents[2] / "examples" / "plans.yaml"

NOT_YAML = {
    "not-yaml", "bracket", "colon", "indentation", "no-such-anchor", "no-text-begins-so", "nul",
    "quote", "second-document", "tab", "tag", "no-such-day", "all-at-once", "endless-alias",
    "aliases",
}  # fmt: skip
# Rules that JSON Schema cannot express: references, duplicates, sums, how servers read a path.
BEYOND_SCHEMA = {
    "links", "twice", "merge-key", "cap-without-overage", "inexact-burst", "nothing-allowed",
    "unknown-meter", "unknown-parent", "unknown-plan", "circle", "unsold-feature", "late-cost",
    "reserve-unused", "settle-unused", "same-account", "same-key", "same-route-id", "time-zone",
    "unreachable", "covered-route", "covered-by-name", "covered-by-two", "escape",
    "read-otherwise", "long-period", "packs", "one-of-many", "team-shares", "unknown-team",
    "too-many-teams", "two-meters", "ask-usage",
}  # fmt: skip
# Words of libraries, which authors of plan files need not know.
LIBRARY_WORDS = re.compile(
    r"pydantic|instance of|valid (tuple|string|dictionary)|None\b|Input|\^\["
)


def expected(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]


def problems_of(text: bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "plans.yaml")
    return [str(problem).removeprefix("plans.yaml:") for problem in caught.value.problems]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_an_invalid_file_is_rejected_with_position_and_remedy(path: Path) -> None:
    problems = problems_of(path.read_bytes())
    assert problems == expected(path)
    assert not [problem for problem in problems if LIBRARY_WORDS.search(problem)]
    assert "my-secret-key" not in "".join(problems)


def test_problems_are_in_the_order_of_the_file() -> None:
    for path in BAD:
        lines = problems_of(path.read_bytes())
        positions = [tuple(map(int, line.split(":")[:2])) for line in lines]
        assert positions == sorted(positions), path.stem


def test_beyond_200_problems_the_rest_is_counted() -> None:
    lines = [f'  - {{id: "{number}!", plan: free}}\n' for number in range(300)]
    text = EXAMPLE.read_text() + "".join(lines)
    problems = problems_of(text.encode())
    assert len(problems) == 201
    assert problems[-1].endswith(": 100 more problems from here on; fix the others first")


def as_json(text: str) -> Any:
    """The file as an editor checks it: dates and all keys are strings."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


@pytest.mark.parametrize(
    "path",
    [path for path in BAD if path.stem not in BEYOND_SCHEMA | NOT_YAML],
    ids=lambda path: path.stem,
)
def test_the_schema_rejects_an_invalid_structure(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(as_json(path.read_text())))


@pytest.mark.parametrize("name", sorted(BEYOND_SCHEMA))
def test_the_schema_accepts_files_that_only_break_rules_beyond_it(name: str) -> None:
    [path] = [path for path in BAD if path.stem == name]
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(as_json(path.read_text()))) == []


def test_the_schema_has_a_title_and_the_rules_for_keys_that_go_together() -> None:
    whole = schema()
    assert whole["title"] == "Quota Sidecar plan file"
    limit = whole["$defs"]["LimitModel"]
    assert {"required": ["rate", "meter"]} in limit["oneOf"]
    assert limit["dependentSchemas"]["burst"] == {"anyOf": [{"required": ["rate"]}]}
    assert whole["properties"]["plans"]["propertyNames"]["pattern"]
