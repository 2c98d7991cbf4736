"""Message classes from a short text, without generated code.

Field numbers and types are what is on the wire; names of messages are not. So a text with the
fields that the sidecar uses is compatible with the whole published messages, whose other fields the
parser skips. The classes have a pool of their own, so that no other package with the published
messages can collide with them.
"""

import re
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE: Final = "quota_sidecar"
_FIELD: Final = re.compile(r"(\w+)=(\d+) (\*?)(\w+)")
_TYPES: Final = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "double": descriptor_pb2.FieldDescriptorProto.TYPE_DOUBLE,
    # An enumeration is a number on the wire, and this parser keeps unknown ones.
    "enum": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
}


def message_classes(schema: str) -> dict[str, Any]:
    """Return the classes of a schema by name.

    Each line is `Name: field=number type, …`; `*type`: repeated; a type may be another message.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3"
    )
    lines = [line.partition(":") for line in schema.strip().splitlines()]
    for name, _, fields in lines:
        message = file.message_type.add(name=name.strip())
        for field, number, repeated, kind in _FIELD.findall(fields):
            added = message.field.add(name=field, number=int(number))
            added.label = added.LABEL_REPEATED if repeated else added.LABEL_OPTIONAL
            if kind in _TYPES:
                added.type = _TYPES[kind]
            else:
                added.type, added.type_name = added.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}")
        )
        for message in file.message_type
    }
