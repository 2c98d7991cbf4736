"""The bounds of a setting in the values schema of the chart, from the settings themselves."""

import types
import typing
from typing import Any, Literal

from sidecar.settings.model import Settings

_KEYWORDS = {"ge": "minimum", "le": "maximum", "pattern": "pattern"}


def bounds(name: str) -> dict[str, Any]:
    """Keywords of JSON Schema: `minimum`, `maximum`, `pattern`, `enum`; `items` of the sinks."""
    field = Settings.model_fields[name]
    found: dict[str, Any] = {}
    for limit in field.metadata:
        for attribute, keyword in _KEYWORDS.items():
            value = getattr(limit, attribute, None)
            if value is not None:
                found[keyword] = value
    choices = [one for one in _parts(field.annotation) if typing.get_origin(one) is Literal]
    if choices:
        found["enum"] = [*typing.get_args(choices[0]), None]
    if name == "sinks":
        one = "(stdout|redis|file:[^,]+)"
        found |= {"pattern": f"^({one}(, *{one})*)?$"}
        found |= {"items": {"type": "string", "pattern": f"^{one}$"}}
    return found


def _parts(annotation: Any) -> list[Any]:
    return (
        list(typing.get_args(annotation))
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else [annotation]
    )
