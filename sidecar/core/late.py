"""Costs that are told late: by a header, by the size of a body, or by what is in one."""

from collections.abc import Iterable, Mapping, Sequence

from sidecar.core.costs import BodySize, Header, Source, Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.model import UNBOUNDED
from sidecar.core.reading import Reading

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
        if isinstance(source, Header):
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
