"""What pydantic found, in words for the person who writes the plan file."""

from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel

from sidecar.config import models
from sidecar.config.positions import Path

# Words of the plan language that this version does not serve: refused, never ignored.
LATER: Final = {
    "packs", "concurrency", "max_wait", "refund", "rollover", "enforce", "teams",
}  # fmt: skip
_EXAMPLES: Final = {
    "reserve": "{json: max_tokens, default: 1024}",
    "settle": "{json: usage.total_tokens}",
}
_SHAPES: Final[dict[str, type[BaseModel]]] = {
    "meters": models.MeterModel, "reserve": models.ReserveModel, "settle": models.SettleModel,
    "routes": models.RouteModel, "plans": models.PlanModel,
    "limits": models.LimitModel, "accounts": models.AccountModel, "keys": models.KeyModel,
    "links": models.LinksModel, "anonymous": models.AnonymousModel, "critical": models.GuardModel,
}  # fmt: skip


def explain(error: Any, given: Any) -> str:
    """One sentence: what is wrong; what to write instead. Values under `keys` are not repeated."""
    kind, path = error["type"], error["loc"]
    context = error.get("ctx", {})
    last = str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "missing":
        return f"is missing; add `{last}: …`"
    if kind == "value_error":
        return str(context["error"])
    secret = last == "sha256"
    shown = "the value" if secret or isinstance(given, (dict, list)) else f'"{given}"'
    if kind == "literal_error":
        if last == "when_store_is_down" and given == "local":
            return '"local" is not supported yet; write allow or deny'
        return f"{shown} is not one of them; write {context['expected']}"
    if secret:
        return 'is not a SHA-256 in hex; make one with: printf %s "$KEY" | sha256sum'
    if kind == "string_pattern_mismatch":
        return f"{shown} does not fit here; write it as {context['pattern']}"
    if kind == "model_type" and last in _EXAMPLES:
        return f"{shown} does not fit here; write it like {_EXAMPLES[last]}"
    return f"{shown} does not fit here: {error['msg'].lower()}"


def _unknown(path: Path) -> str:
    name = str(path[-1])
    if name in LATER:
        return f'"{name}" is not supported yet; remove it'
    shape: type[BaseModel] = models.FileModel
    for part in path[:-1]:
        shape = _SHAPES.get(str(part), shape)
    known = [field.alias or name for name, field in shape.model_fields.items()]
    close = get_close_matches(name, known, 1)
    if close:
        return f'"{name}" is not known here; did you mean "{close[0]}"?'
    return f'"{name}" is not known here; known are {", ".join(known)}'
