"""What a request cost, as read from a header, a body or its size: units per meter, or why none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.core.costs import BodySize, HeaderSource, Source, Unreadable
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


Told = dict[str, int | Unreadable]


def told_by_fields(
    sources: Iterable[tuple[str, Source]], fields: Sequence[tuple[bytes, bytes]]
) -> Told:
    """What header fields, as (lower-case name, whole line), say of the meters that look there.

    A value is digits. A field that is there twice with two values is no number: nobody could
    tell which is meant.
    """
    told: Told = {}
    for meter, source in sources:
        if isinstance(source, HeaderSource):
            lines = {
                line.partition(b":")[2].strip() for name, line in fields if name == source.name
            }
            told[meter] = _units(lines.pop()) if len(lines) == 1 else (
                Unreadable.NOT_A_NUMBER if lines else Unreadable.MISSING
            )  # fmt: skip
    return told


def _units(value: bytes) -> int | Unreadable:
    if not value.isdigit() or len(value) > len(str(UNBOUNDED)) or int(value) > UNBOUNDED:
        return Unreadable.NOT_A_NUMBER
    return int(value)


def late_reading(
    settles: Iterable[tuple[str, Source]],
    body: Reading | None,
    fields: Mapping[str, int | Unreadable],
    bytes_in: int,
    bytes_out: int,
) -> Reading:
    """What a call really cost: of its response's `body` as far as it was read, of its header
    fields, and of how much went each way. Who has said nothing is unanswered."""
    found: Told = {}
    sizes = {"request": bytes_in, "response": bytes_out, "both": bytes_in + bytes_out}
    for meter, source in settles:
        if isinstance(source, BodySize):
            found[meter] = sizes[source.of]
        elif isinstance(source, JsonPath) and body is not None:
            why = body.unreadable.get(meter, Unreadable.MISSING)
            found[meter] = body.values.get(meter, why)
        else:
            found[meter] = fields.get(meter, Unreadable.UNANSWERED)
    return Reading.of(found)
