"""A JSON Patch (RFC 6902) from one object to another, with add, replace and remove."""

from collections.abc import Iterator
from typing import Any

Operation = dict[str, Any]


def json_patch(before: Any, after: Any, path: str = "") -> Iterator[Operation]:
    """The operations that turn `before` into `after`. Lists that shrink are replaced whole."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _mapping(before, after, path)
    elif isinstance(before, list) and isinstance(after, list) and len(before) <= len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from json_patch(one, other, f"{path}/{index}")
        for item in after[len(before) :]:
            yield {"op": "add", "path": f"{path}/-", "value": item}
    elif type(before) is not type(after) or before != after:
        yield {"op": "replace", "path": path, "value": after}


def _mapping(before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Operation]:
    for key, value in before.items():
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in after:
            yield {"op": "remove", "path": where}
        else:
            yield from json_patch(value, after[key], where)
    for key, value in after.items():
        if key not in before:
            where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            yield {"op": "add", "path": where, "value": value}
