"""One small bad file per rule; each says in its first lines what is to be said of it."""

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

NO_YAML = {
    "not-yaml", "bracket", "colon", "indentation", "no-such-anchor", "no-text-begins-so", "nul",
    "quote", "second-document", "tab", "tag", "no-such-day", "all-at-once", "endless-alias",
    "aliases",
}  # fmt: skip
# What a schema cannot say: references, repeats, sums, and how servers read a path.
BEYOND_A_SCHEMA = {
    "twice", "merge-key", "cap-without-overage", "inexact-burst", "nothing-allowed",
    "unknown-meter", "unknown-parent", "unknown-plan", "circle", "unsold-feature", "late-cost",
    "reserve-unused", "settle-unused", "same-account", "same-key", "same-route-id", "time-zone",
    "unreachable", "covered-route", "covered-by-name", "covered-by-two", "escape",
    "read-otherwise", "long-period", "packs", "one-of-many", "team-shares", "unknown-team",
    "too-many-teams",
}  # fmt: skip
# Words of our libraries, which nobody who writes a plan file should have to know.
FOREIGN = re.compile(r"pydantic|instance of|valid (tuple|string|dictionary)|None\b|Input|\^\[")


def expected(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]


def told(text: bytes) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        parse(text, "plans.yaml")
    return [str(problem).removeprefix("plans.yaml:") for problem in refused.value.problems]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_place_and_remedy(path: Path) -> None:
    problems = told(path.read_bytes())
    assert problems == expected(path)
    assert not [problem for problem in problems if FOREIGN.search(problem)]
    assert "my-secret-key" not in "".join(problems)


def test_problems_stand_in_the_order_of_the_file() -> None:
    for path in BAD:
        places = [tuple(map(int, line.split(":")[:2])) for line in told(path.read_bytes())]
        assert places == sorted(places), path.stem


def test_of_very_many_problems_the_first_are_told_and_the_rest_counted() -> None:
    lines = [f'  - {{id: "{number}!", plan: free}}\n' for number in range(300)]
    text = EXAMPLE.read_text() + "".join(lines)
    problems = told(text.encode())
    assert len(problems) == 201
    assert problems[-1].endswith(": 100 more problems from here on; repair the others first")


def as_an_editor_sees_it(text: str) -> Any:
    """JSON: days are text, and so are all keys."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


@pytest.mark.parametrize(
    "path",
    [path for path in BAD if path.stem not in BEYOND_A_SCHEMA | NO_YAML],
    ids=lambda path: path.stem,
)
def test_the_schema_rejects_what_is_structurally_wrong(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(as_an_editor_sees_it(path.read_text())))


@pytest.mark.parametrize("name", sorted(BEYOND_A_SCHEMA))
def test_what_is_beyond_a_schema_is_not_wrong_by_its_shape(name: str) -> None:
    [path] = [path for path in BAD if path.stem == name]
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(as_an_editor_sees_it(path.read_text()))) == []


def test_the_schema_has_our_title_and_says_which_keys_go_together() -> None:
    whole = schema()
    assert whole["title"] == "Quota Sidecar plan file"
    limit = whole["$defs"]["LimitModel"]
    assert {"required": ["rate", "meter"]} in limit["oneOf"]
    assert limit["dependentSchemas"]["burst"] == {"anyOf": [{"required": ["rate"]}]}
    assert whole["properties"]["plans"]["propertyNames"]["pattern"]
