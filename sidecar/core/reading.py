"""What was read from a body: units per meter, or why there are none."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.core.costs import Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.model import UNBOUNDED


@dataclass(frozen=True, slots=True)
class Reading:
    """Every meter that was looked for is in exactly one of the two."""

    values: Mapping[str, int]
    unreadable: Mapping[str, Unreadable]

    @classmethod
    def nothing(cls, meters: Iterable[str], why: Unreadable) -> "Reading":
        """No meter could be read, all for one reason."""
        return cls({}, dict.fromkeys(meters, why))

    @classmethod
    def of(cls, found: Mapping[str, int | Unreadable]) -> "Reading":
        """Sort what was found into values and reasons."""
        return cls(
            {meter: what for meter, what in found.items() if isinstance(what, int)},
            {meter: what for meter, what in found.items() if isinstance(what, Unreadable)},
        )

    @classmethod
    def from_document(cls, document: Any, paths: Iterable[tuple[str, JsonPath]]) -> "Reading":
        """What a parsed JSON document says of each (meter, path)."""
        return cls.of({meter: whole_units(path.find(document)) for meter, path in paths})


def whole_units(value: Any) -> int | Unreadable:
    """A JSON value as units: an integer, or a float that is whole, from 0 to 2**53 - 1.

    Beyond that, JSON's numbers are not the same for everyone (RFC 8259, section 6).
    """
    if value is None:
        return Unreadable.MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Unreadable.NOT_A_NUMBER
    if not 0 <= value <= UNBOUNDED or value != int(value):  # NaN is not between
        return Unreadable.NOT_A_NUMBER
    return int(value)
