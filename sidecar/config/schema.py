"""The JSON Schema of plan files, with which editors complete and check them."""

from typing import Any

from sidecar.config.models import FileModel


def schema() -> dict[str, Any]:
    """The schema, draft 2020-12. It covers the shape of a file, not references inside it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_strict(FileModel.model_json_schema(by_alias=True)),
        "title": "Quota Sidecar plan file",
    }


def _strict(part: Any) -> Any:
    """A schema that rejects invalid names.

    pydantic writes the pattern of free names as `patternProperties`, which allows every name
    that does not match.
    """
    if isinstance(part, list):
        return [_strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    schema = {name: _strict(value) for name, value in part.items()}
    if schema.get("type") == "object" and "patternProperties" in schema:
        [(pattern, value)] = schema.pop("patternProperties").items()
        schema |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    return schema
