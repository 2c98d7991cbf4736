"""What holds for every file that the loader of plan files reads; and files almost valid."""

import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from sidecar.config.loading import parse
from sidecar.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAME = "plans.yaml"
WORDS = [
    "1000/month", "5/s", "80%", "up to 20%", "0/s", "2s", "31/cycle", "${X}", "* /v1/**", "GET /a",
    "2026-02-30", "critical", "reserve", "acme", "free", "monthly", "", "\x00", "é", "-1", "1e9",
]  # fmt: skip
KEYS = ["id", "match", "cost", "limits", "quota", "rate", "at", "extends", "per", "keys", "x"]


def examples() -> list[bytes]:
    """Valid and invalid plan files."""
    files = [*ROOT.glob("examples/*.yaml"), *ROOT.glob("tests/config/bad/*.yaml")]
    slow = {"aliases.yaml"}  # its aliases take seconds until their number is too large
    return [file.read_bytes() for file in sorted(files) if file.name not in slow]


def check(text: bytes) -> None:
    """Load a file twice. Raises AssertionError, or any error that is not a ConfigError."""
    first, second = _outcome(text), _outcome(text)
    assert first == second, "the same file has two outcomes"
    lines = len(re.findall("[\n\r\x85\u2028\u2029]", text.decode(errors="replace"))) + 2
    for problem in first if isinstance(first, list) else []:
        match = re.match(rf"{NAME}(?::(\d+):(\d+))?: ", problem)
        assert match, problem
        assert int(match[1] or 0) <= lines, problem
        assert all(char.isprintable() or char == "\t" for char in problem), ascii(problem)
        assert len(problem) < 2_000, problem


def _outcome(text: bytes) -> list[str] | str:
    try:
        return parse(text, NAME).version
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        assert problems
        return problems


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(WORDS) | st.dates()
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), part, max_size=3)
    ),
    max_leaves=6,
)


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in the data, with each of its keys."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list) and node[key]:
            yield from _places(node[key])


@cache
def _example(name: str) -> Any:
    return yaml.safe_load((ROOT / "examples" / name).read_text())


@st.composite
def almost_valid(draw: st.DrawFn) -> bytes:
    """The text of an example in which up to three values are replaced, removed or copied."""
    source = draw(st.sampled_from(["plans.yaml", "ai.yaml", "teams.yaml"]))
    data = copy.deepcopy(_example(source))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(data))
        node, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["replace", "remove", "copy"]))
        if change == "remove":
            del node[key]
        elif change == "replace":
            node[key] = draw(values)
        else:
            other, other_key = places[draw(st.integers(0, len(places) - 1))]
            other[other_key] = copy.deepcopy(node[key])
        if not data:
            break
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")
