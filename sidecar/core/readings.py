"""Costs that were read from a header, a body or its size: units per meter, or why none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sidecar.core.costs import BodySize, HeaderSource, Source, Unreadable
from sidecar.core.json_cost import Formula, JsonCost
from sidecar.core.json_path import JsonPath
from sidecar.core.kinds import UNBOUNDED


@dataclass(frozen=True, slots=True)
class Reading:
    """Each requested meter is in one of the first two mappings.

    A meter in both has a value that may be too low, and the reason why. `capped` has the costs that
    were reported, of meters whose value is the most that settles. `counted` has units by the size
    of the body or the number of its documents: of a request, beside its values; of a response, for
    meters whose cost may not be known. `grows`: a request's body may be larger than was counted.
    """

    values: Mapping[str, int]
    unreadable: Mapping[str, Unreadable]
    capped: Mapping[str, int] | None = None
    counted: Mapping[str, int] | None = None
    grows: bool = False

    @classmethod
    def failed(cls, meters: Iterable[str], reason: Unreadable) -> "Reading":
        """Return a reading in which all meters failed for one reason."""
        return cls({}, dict.fromkeys(meters, reason))

    @classmethod
    def of(cls, results: Mapping[str, int | Unreadable]) -> "Reading":
        """Sort results into values and reasons."""
        return cls(
            {meter: result for meter, result in results.items() if isinstance(result, int)},
            {meter: result for meter, result in results.items() if isinstance(result, Unreadable)},
        )

    @classmethod
    def from_document(cls, document: Any, paths: Iterable[tuple[str, JsonPath]]) -> "Reading":
        """Return the costs that a parsed JSON document has at each (meter, path)."""
        return cls.of({meter: whole_units(path.find(document)) for meter, path in paths})

    def capped_at(self, caps: Iterable[tuple[str, int]]) -> "Reading":
        """Return the reading with no value above its cap."""
        capped = {meter: most for meter, most in caps if self.values.get(meter, 0) > most}
        if not capped:
            return self
        reported = {meter: self.values[meter] for meter in capped}
        return Reading({**self.values, **capped}, self.unreadable, reported)


def whole_units(value: Any) -> int | Unreadable:
    """Return a JSON value as units: an integer, or a whole float, from 0 to 2**53 - 1.

    Beyond that, JSON parsers disagree about numbers (RFC 8259, section 6). So some APIs write
    integers as strings of digits (Protocol Buffers: all of 64 bits), and many APIs read them.
    """
    if value is None:
        return Unreadable.MISSING
    if isinstance(value, str) and value.isascii():
        return _units(value.encode())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Unreadable.NOT_A_NUMBER
    if not 0 <= value <= UNBOUNDED or value != int(value):  # NaN is not between
        return Unreadable.NOT_A_NUMBER
    return int(value)


FieldCosts = dict[str, int | Unreadable]


def read_fields(
    sources: Iterable[tuple[str, Source | Formula | None]], fields: Sequence[tuple[bytes, bytes]]
) -> FieldCosts:
    """Return the costs in header fields, given as (lower-case name, whole line).

    A value is digits. A field with two different values is not a number, because it is unclear
    which one counts.
    """
    costs: FieldCosts = {}
    for meter, source in sources:
        if isinstance(source, HeaderSource):
            lines = {
                line.partition(b":")[2].strip() for name, line in fields if name == source.name
            }
            if not lines:
                costs[meter] = Unreadable.MISSING
            else:
                costs[meter] = _units(lines.pop()) if len(lines) == 1 else Unreadable.NOT_A_NUMBER
    return costs


def _units(value: bytes) -> int | Unreadable:
    if not value.isdigit() or len(value) > len(str(UNBOUNDED)) or int(value) > UNBOUNDED:
        return Unreadable.NOT_A_NUMBER
    return int(value)


def actual_costs(
    settles: Iterable[tuple[str, Source]],
    body: Reading | None,
    fields: FieldCosts,
    bytes_in: int,
    bytes_out: int,
    counted: Mapping[str, int] | None = None,
) -> Reading:
    """Return a request's actual costs, from its response's `body` and header `fields` and its
    sizes.

    A meter without any of these is UNANSWERED. `counted`: as in the reading.
    """
    costs: dict[str, int | Unreadable] = {}
    doubted: dict[str, Unreadable] = {}
    sizes = {"request": bytes_in, "response": bytes_out, "both": bytes_in + bytes_out}
    for meter, source in settles:
        if isinstance(source, BodySize):
            costs[meter] = sizes[source.of]
        elif isinstance(source, JsonPath | JsonCost) and body is not None:
            reason = body.unreadable.get(meter)
            costs[meter] = body.values.get(meter, reason or Unreadable.MISSING)
            if reason is not None:
                doubted[meter] = reason
        else:
            costs[meter] = fields.get(meter, Unreadable.UNANSWERED)
    reading = Reading.of(costs)
    if not doubted and counted is None:
        return reading
    return Reading(reading.values, dict(reading.unreadable) | doubted, None, counted)
