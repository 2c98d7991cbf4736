"""The plan file's JSON Schema, so that editors complete and check."""

from typing import Any

from sidecar.config.models import FileModel


def schema() -> dict[str, Any]:
    """Draft 2020-12. Says of the file's shape what can be said without looking elsewhere in it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_strict(FileModel.model_json_schema(by_alias=True)),
        "title": "Quota Sidecar plan file",
    }


def _strict(part: Any) -> Any:
    """pydantic writes names of somebody's choice as `patternProperties`, and so lets through
    those that fit no pattern."""
    if isinstance(part, list):
        return [_strict(one) for one in part]
    if not isinstance(part, dict):
        return part
    told = {name: _strict(value) for name, value in part.items()}
    if told.get("type") == "object" and "patternProperties" in told:
        [(pattern, value)] = told.pop("patternProperties").items()
        told |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    return told
