"""One small bad file per rule; each says in its first lines what is to be said of it."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from sidecar.config import parse, schema
from sidecar.errors import ConfigError

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
EXAMPLE = Path(__file__).parents[2] / "examples" / "plans.yaml"

# What a schema cannot say: references, repeats, sums, and texts that only look right.
BEYOND_A_SCHEMA = {
    "not-yaml", "empty", "twice", "rate", "quota", "both", "percent", "early-reject",
    "cap-without-overage", "inexact-burst", "unknown-meter", "unknown-parent", "circle",
    "reserved-limit", "unsold-feature", "no-path", "stars-inside", "lower-method", "unreachable",
    "unknown-plan", "time-zone", "late-cost", "reserve-unused", "settle-unused",
}  # fmt: skip


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_file_is_refused_with_place_and_remedy(path: Path) -> None:
    text = path.read_text()
    expected = [line[10:] for line in text.splitlines() if line.startswith("# expect: ")]
    with pytest.raises(ConfigError) as refused:
        parse(text.encode(), "plans.yaml")
    assert [str(problem) for problem in refused.value.problems] == [
        f"plans.yaml:{line}" for line in expected
    ]
    assert expected
    assert "my-secret-key" not in str(refused.value)


def test_every_problem_is_told_in_one_go() -> None:
    text = EXAMPLE.read_text().replace("rate: 5/s", "rate: 5ps").replace("1000/month", "1000")
    with pytest.raises(ConfigError) as refused:
        parse(text.encode(), "plans.yaml")
    assert [problem.path for problem in refused.value.problems] == [
        "plans.free.limits[0].rate",
        "plans.free.limits[1].quota",
    ]


@pytest.mark.parametrize(
    "path", [p for p in BAD if p.stem not in BEYOND_A_SCHEMA], ids=lambda path: path.stem
)
def test_the_schema_rejects_what_is_structurally_wrong(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    assert list(validator.iter_errors(yaml.safe_load(path.read_text())))
