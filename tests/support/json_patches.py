"""Applies a JSON Patch (RFC 6902), to see what the API server makes of it."""

import copy
from typing import Any


def apply(patch: list[dict[str, Any]], document: Any) -> Any:
    """The document after the operations; each must find its place."""
    document = copy.deepcopy(document)
    for operation in patch:
        names = [part.replace("~1", "/").replace("~0", "~") for part in
                 operation["path"].split("/")[1:]]  # fmt: skip
        if not names:
            document = operation["value"]
            continue
        *path, last = names
        part = document
        for name in path:
            part = part[int(name)] if isinstance(part, list) else part[name]
        _change(part, last, operation)
    return document


def _change(part: Any, key: str, operation: dict[str, Any]) -> None:
    if isinstance(part, list):
        if operation["op"] == "add":
            assert key == "-"
            part.append(operation["value"])
        else:
            assert operation["op"] == "replace"
            part[int(key)] = operation["value"]
    elif operation["op"] == "remove":
        del part[key]
    else:
        assert (key in part) == (operation["op"] == "replace")
        part[key] = operation["value"]
