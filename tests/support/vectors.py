"""The vectors of `plugins/vectors.json`, for the tests of every gateway."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).parents[2] / "plugins"
PLANS = (PLUGINS / "vectors.plans.yaml").read_text()
VECTORS: list[dict[str, Any]] = json.loads((PLUGINS / "vectors.json").read_text())["vectors"]


@contextlib.contextmanager
def named(vector: dict[str, Any]) -> Iterator[None]:
    """Name the vector in a failure inside the block."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"vector {vector['name']!r}: {error}") from error


def check_refusal(expect: dict[str, Any], headers: dict[str, str], body: str) -> None:
    """Check a refusal as the client gets it, beyond its status. Names are in any case."""
    lower = {name.lower(): value for name, value in headers.items()}
    for name in expect.get("headers", ()):
        assert lower.get(name.lower()), name
    if "text" in expect:
        assert lower["content-type"].startswith("text/plain")
        assert body.startswith(expect["text"])
        return
    assert lower["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (expect["status"], expect["type"])
    assert problem["request_id"] == lower["x-request-id"]
    if "upgrade" in expect:
        assert expect["upgrade"] in [step.get("plan") for step in problem["how_to_fix"]]
