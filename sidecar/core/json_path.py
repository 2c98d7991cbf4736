"""Dotted paths into a JSON document: `usage.total_tokens`, `choices.0.index`, `data.#`."""

import re
from dataclasses import dataclass
from typing import Any, Final

PATTERN: Final = (
    r"^(#|[A-Za-z0-9_@:-]{1,64}(\.[A-Za-z0-9_@:-]{1,64}){0,14}(\.[A-Za-z0-9_@:-]{1,64}|\.#)?)$"
)
LENGTH: Final = "#"
_PATH: Final = re.compile(PATTERN.removesuffix("$"))


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A compiled path. A step of digits is an index in an array, and a name in an object.

    The last step may be `#`: the length of an array.
    """

    text: str
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "JsonPath":
        """Compile a path of at most 16 steps. Raises ValueError with a remedy."""
        if not _PATH.fullmatch(text):
            raise ValueError(
                f'"{text}" is not a path into JSON; write names joined by dots, '
                "like usage.total_tokens or choices.0.index"
            )
        return cls(text, tuple(text.split(".")))

    def find(self, document: Any) -> Any:
        """Return the value at this path, None if it is null or missing."""
        for step in self.steps:
            if step == LENGTH:
                return len(document) if isinstance(document, list) else None
            if isinstance(document, dict):
                document = document.get(step)
            elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
                document = document[int(step)]
            else:
                return None
        return document
