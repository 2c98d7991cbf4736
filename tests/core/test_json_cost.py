"""Costs from several paths: alternatives, sums, differences and lengths."""

from typing import Any

import pytest

from sidecar.config import values
from sidecar.core.json_cost import Formula
from sidecar.core.readings import whole_units
from sidecar.core.unreadable import Unreadable


def cost(document: Any, *texts: str) -> int | Unreadable:
    formula = Formula.parse(texts)
    found = {path.text: path.find(document) for path in formula.paths}
    return formula.evaluate({t: whole_units(v) for t, v in found.items() if v is not None})


@pytest.mark.parametrize(
    ("texts", "document", "units"),
    [
        (("a", "b"), {"a": 1, "b": 2}, 1),
        (("a", "b"), {"b": 2}, 2),
        (("a", "b"), {"a": None, "b": 2}, 2),
        (("a", "b"), {"a": 0, "b": 2}, 0),
        (("a", "b"), {}, Unreadable.MISSING),
        (("a", "b"), {"a": "x", "b": 2}, Unreadable.NOT_A_NUMBER),
        (("a + b",), {"a": 1, "b": 2}, 3),
        (("a + b",), {"b": 2}, 2),
        (("a + b",), {}, Unreadable.MISSING),
        (("a + b",), {"a": 1, "b": -2}, Unreadable.NOT_A_NUMBER),
        (("a - b",), {"a": 5, "b": 2}, 3),
        (("a - b",), {"a": 5}, 5),
        (("a - b",), {"a": 2, "b": 5}, 0),
        (("a - b", "c"), {"b": 5, "c": 7}, 7),
        (("a|b + c",), {"b": 1, "c": 2}, 3),
        (("a|b + c",), {"a": 4, "b": 1, "c": 2}, 6),
        (("data.#",), {"data": [1, 2, 3]}, 3),
        (("data.#",), {"data": []}, 0),
        (("data.#",), {"data": {"#": 5}}, Unreadable.MISSING),
        (("#",), [1, 2], 2),
        (("data.# + more.#",), {"data": [1], "more": [1]}, 2),
    ],
)
def test_the_first_sum_that_is_there_counts(
    texts: tuple[str, ...], document: Any, units: int | Unreadable
) -> None:
    assert cost(document, *texts) == units


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("a b", "is not a path into JSON"),
        ("a +", "is not a path into JSON"),
        ("a + b c", "is not a path into JSON"),
        ("a * b", "is not a path into JSON"),
        ("a|", "is not a path into JSON"),
        ("#.a", "is not a path into JSON"),
        (" + ".join("abcdefghijklmnopq"), "a sum of 17 paths is too long"),
        ([], "is not a path into JSON"),
        (["a"] * 17, "has 17 paths; write at most 16"),
        (["a", 1], "is not a path into JSON"),
        (5, "is not a path into JSON"),
    ],
)
def test_other_text_is_refused(written: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        values.formulas(written)
