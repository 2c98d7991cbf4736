"""The messages are a part of those that Envoy and gRPC publish."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.decide.grpc import messages
from sidecar.decide.grpc.schema import message_classes

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text())
CLASSES = message_classes(messages.SCHEMA)
KINDS = {
    1: "double", 3: "int64", 4: "uint64", 5: "int32", 8: "bool", 9: "string", 12: "bytes",
    13: "uint32",
}  # fmt: skip

MAPS = {PUBLISHED[name]["published"] for name in ("TextEntry", "StructEntry", "MetadataEntry")}


def kind_of(field: Any) -> str:
    """The type of a field; of a message, the name that is published for it."""
    if field.message_type is None:
        return KINDS[field.type]
    return str(PUBLISHED[field.message_type.name]["published"])


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_has_its_published_number_and_type(name: str) -> None:
    fields = CLASSES[name].DESCRIPTOR.fields
    assert fields
    for field in fields:
        number, published = PUBLISHED[name]["fields"][field.name]
        assert field.number == number
        kind = kind_of(field)
        if published == "enum":  # a number on the wire
            assert kind == "int32"
        elif kind in MAPS:
            assert field.is_repeated and published.endswith("Entry")
        else:
            assert published == ("*" if field.is_repeated else "") + kind


def test_unknown_fields_are_skipped() -> None:
    asked = messages.CheckRequest()
    asked.attributes.request.http.method = "GET"
    later = b"\xfa\x3f\x05hello"  # field 1023, of a later version
    assert messages.CheckRequest.FromString(asked.SerializeToString() + later) is not None
