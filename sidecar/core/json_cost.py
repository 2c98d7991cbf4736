"""Costs that are computed from several values of a JSON document.

`usage.total_tokens`; a sum, `usage.input_tokens + usage.output_tokens`; a difference; and places
for one value, `usage.input_tokens|message.usage.input_tokens`. `data.#` is the length of `data`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.core.json_path import JsonPath
from sidecar.core.unreadable import Unreadable

MOST_CHOICES: Final = 16
MOST_TERMS: Final = 16
_PLACES: Final = r"[A-Za-z0-9_@:#.-]+([|][A-Za-z0-9_@:#.-]+)*"
PATTERN: Final = rf"^{_PLACES}( [+-] {_PLACES})*$"
Values = Mapping[str, int | Unreadable]  # by the text of the path; missing ones are absent


@dataclass(frozen=True, slots=True)
class Term:
    """One value of a sum: the first that is there."""

    sign: int  # 1 or -1
    places: tuple[JsonPath, ...]

    def value(self, values: Values) -> int | Unreadable:
        """Return the value, or why it is missing."""
        for place in self.places:
            found = values.get(place.text)
            if found is not None:
                return found
        return Unreadable.MISSING


@dataclass(frozen=True, slots=True)
class Formula:
    """The ways to compute a cost: the first one that has a value counts.

    A sum has a value if one of its added terms has; other missing terms count 0. The result is at
    least 0.
    """

    text: str
    choices: tuple[tuple[Term, ...], ...]

    @classmethod
    def parse(cls, texts: Sequence[str]) -> "Formula":
        """Compile sums of paths. Raises ValueError with a remedy."""
        return cls(", ".join(texts), tuple(_parse_sum(text) for text in texts))

    @property
    def paths(self) -> tuple[JsonPath, ...]:
        """Every path, once."""
        places = [p for terms in self.choices for term in terms for p in term.places]
        return tuple({path.text: path for path in places}.values())

    def evaluate(self, values: Values) -> int | Unreadable:
        """Return the cost, or why it is missing."""
        for terms in self.choices:
            total = _sum(terms, values)
            if total is not Unreadable.MISSING:
                return total
        return Unreadable.MISSING


def _sum(terms: Sequence[Term], values: Values) -> int | Unreadable:
    total, there = 0, False
    for term in terms:
        value = term.value(values)
        if isinstance(value, int):
            total += term.sign * value
            there = there or term.sign > 0
        elif value is not Unreadable.MISSING:
            return value
    return max(0, total) if there else Unreadable.MISSING


def _parse_sum(text: str) -> tuple[Term, ...]:
    words = text.split(" ")
    signs = words[1::2]
    if len(words) % 2 == 0 or any(sign not in ("+", "-") for sign in signs):
        JsonPath.parse(text)  # says what a path is
        raise ValueError(f'"{text}" is not a sum of paths; write it like a.b + c.d - e.f')
    if len(signs) >= MOST_TERMS:
        raise ValueError(f"a sum of {len(signs) + 1} paths is too long; write at most {MOST_TERMS}")
    return tuple(
        Term(-1 if sign == "-" else 1, tuple(JsonPath.parse(place) for place in word.split("|")))
        for sign, word in zip(("+", *signs), words[::2], strict=True)
    )


@dataclass(frozen=True, slots=True)
class JsonCost:
    """The cost in a response's JSON: in a whole document, and in the documents of a stream.

    `missing`: units if a complete response has no value; None: its estimate stays.
    """

    whole: Formula
    stream: Formula
    missing: int | None = None
