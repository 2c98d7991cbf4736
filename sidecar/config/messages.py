"""Messages about invalid values, for authors of plan files."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel

from sidecar.config import models
from sidecar.config.late_costs import FallbackModel, ReserveModel, SettleModel
from sidecar.config.positions import Path
from sidecar.config.values import quoted

# Example of an item of a list or mapping, and of the value under a key.
_ITEMS: Final = {
    "meters": "{unit: request}",
    "routes": '{id: rest, match: "/**"}',
    "plans": "{limits: [{id: monthly, meter: requests, quota: 1000/month}]}",
    "limits": "{id: monthly, meter: requests, quota: 1000/month}",
    "accounts": "{id: acme, plan: free}",
    "keys": "{id: k1, sha256: …}",
    "teams": "40%",
    "packs": "{meter: requests, units: 10000, lasts: cycle}",
}
_EXAMPLES: Final = {
    "version": "1",
    "meters": f"{{requests: {_ITEMS['meters']}}}", "unit": "request",
    "reserve": "{json: max_tokens, default: 1024}", "settle": "{json: usage.total_tokens}",
    "json": "usage.total_tokens", "stream": "usage.total_tokens", "missing": "0",
    "default": "1024", "min": "100", "most": "1000000", "max_bytes": "262144",
    "bytes_per_unit": "4", "units_per_event": "1", "else": "{bytes_per_unit: 4}",
    "ask_usage": "true",
    "routes": f"[{_ITEMS['routes']}]", "match": '"POST /v1/items"', "needs": "[bulk]",
    "cost": "{requests: 1}",
    "plans": f"{{free: {_ITEMS['plans']}}}", "features": "[bulk]",
    "limits": f"[{_ITEMS['limits']}]", "rate": "5/s", "burst": "10", "quota": "1000/month",
    "at": "{80%: notice, 100%: reject}", "critical": "{rate: 1000/s, burst: 5000}",
    "links": '{upgrade: "https://example.com/pricing"}',
    "upgrade": "https://example.com/pricing", "docs": "https://example.com/docs",
    "packs": f"{{boost: {_ITEMS['packs']}}}", "units": "10000", "lasts": "cycle",
    "rollover": "up to 20%", "max_wait": "2s", "concurrency": "50",
    "refund": "[upstream_5xx, upstream_timeout]",
    "anonymous": "{plan: free, per: address}",
    "accounts": f"[{_ITEMS['accounts']}]", "timezone": "Europe/Paris",
    "keys": f"[{_ITEMS['keys']}]", "teams": "{search: 40%}", "team": "search",
    "then": "{plan: free, from: 2026-12-15}", "from": "2026-12-15",
    "share": "40%",
    "lend": "false",
}  # fmt: skip
_NOT_SHA256: Final = 'is not a SHA-256 in hex; make one with: printf %s "$KEY" | sha256sum'
# The keys of these mappings are free.
_FREE_KEYS: Final = {"meters", "plans", "cost", "at", "packs", "teams"}
_MODELS: Final[dict[str, type[BaseModel]]] = {
    "meters": models.MeterModel, "reserve": ReserveModel, "settle": SettleModel,
    "else": FallbackModel,
    "routes": models.RouteModel, "plans": models.PlanModel,
    "limits": models.LimitModel, "accounts": models.AccountModel, "keys": models.KeyModel,
    "links": models.LinksModel, "anonymous": models.AnonymousModel,
    "packs": models.PackModel,
    "then": models.ThenModel, "teams": models.TeamModel, "critical": models.GuardModel,
}  # fmt: skip
_ACCOUNT_KEYS: Final = {"accounts", "from", *models.AccountModel.model_fields,
                             *models.KeyModel.model_fields,
                             *models.TeamModel.model_fields}  # fmt: skip


def redacted(path: Path) -> Path:
    """A path without possible secrets: unknown keys under `accounts` become "…"."""
    if path[:1] != ("accounts",):
        return path
    return tuple(part if isinstance(part, int) or part in _ACCOUNT_KEYS else "…" for part in path)


def explain(error: Any) -> str:
    """What is wrong; what to write instead. Repeats no value under `accounts`."""
    kind, path, value = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "missing":
        return f"is missing; add {path[-1]}: {_example(path) or '…'}"
    if kind == "value_error":
        return str(context["error"])
    if not path:
        return "the file is not a mapping; begin with version: 1"
    private = path[0] == "accounts"
    if path[-1] == "sha256":
        return _invalid_digest(value)
    if value is None:
        return "is empty; " + _write_like(path, "remove it, or write a value")
    if kind == "literal_error":
        return (
            f"{_subject(value, private)} is not allowed here; write {_choice(context['expected'])}"
        )
    if kind == "string_pattern_mismatch":
        return f"{_subject(value, private)} {_invalid_name(path)}"
    if kind == "too_short":
        return "is empty; " + _write_like(path, "write at least one item")
    if kind in ("greater_than_equal", "less_than_equal"):
        return _out_of_range(value, context)
    return _invalid_type(kind, path, value, private)


def _invalid_type(kind: str, path: Path, value: Any, private: bool) -> str:
    expected = {
        "string_type": "a string", "int_type": "a whole number", "tuple_type": "a list",
        "dict_type": "a mapping", "model_type": "a mapping",
    }.get(kind)  # fmt: skip
    if expected is None:
        return f"{_subject(value, private)} is not allowed here; " + _write_like(
            path, "see sidecar schema"
        )
    if expected == "a string" and not isinstance(value, dict | list):
        remedy = _write_like(path, "put it in quotes")
        return f"{_subject(value, private)} is {_type_of(value)}, not a string; {remedy}"
    return f"{_subject(value, private)} is not {expected}; " + _write_like(
        path, f"write {expected}"
    )


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    return "a number" if isinstance(value, int | float) else "a date"


def _subject(value: Any, private: bool) -> str:
    return "this" if private else quoted(value)


def _write_like(path: Path, otherwise: str) -> str:
    example = _example(path)
    return f"write it like {example}" if example else otherwise


def _example(path: Path) -> str | None:
    """A valid value for `path`, if there is an example."""
    name, parent = str(path[-1]), path[-2] if len(path) > 1 else None
    if isinstance(path[-1], int) or parent in _FREE_KEYS:
        return _ITEMS.get(str(parent))
    return _EXAMPLES.get(name)


def _invalid_name(path: Path) -> str:
    name = path[-1] if isinstance(path[-1], str) and path[-1] != "[key]" else path[-2]
    if name == "unit":
        return "is not a unit; write one word in lower case, like request"
    if name == "header":
        return "is not the name of a header field; write it like X-Credits"
    if name == "price":
        return "is not a price; write at most 64 plain letters and digits, like 5.00 USD"
    if name in ("upgrade", "docs", "packs"):
        return "is not a URL; write it like https://example.com/pricing"
    if path[0] == "accounts" and name == "id" and "keys" not in path:
        return 'is not a name; write up to 128 letters, digits, ".", "_", "@" or "-", like acme-1'
    return 'is not a name; write up to 64 lower-case letters, digits, ".", "_" or "-", like my-name'


def _invalid_digest(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        return "has upper-case letters; write it in lower case"
    return _NOT_SHA256


def _out_of_range(value: Any, context: Any) -> str:
    if "ge" in context:
        return f"{quoted(value)} is too small; write at least {context['ge']:_}"
    return f"{quoted(value)} is too large; write at most {context['le']:_}"


def _choice(expected: str) -> str:
    """The choices without the quotes of pydantic's "'a', 'b' or 'c'"."""
    return expected.replace("'", "")


def _unknown(path: Path) -> str:
    name = str(path[-1])
    model: type[BaseModel] = models.FileModel
    for part in _keys(path[:-1]):
        model = _MODELS.get(part, model)
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = get_close_matches(name, known, 1)
    if close:
        return f'{quoted(name)} is not a known key; write "{close[0]}", or remove it'
    key = "this" if path[0] == "accounts" else quoted(name)
    return f"{key} is not a known key; write one of: {', '.join(known)}"


def _keys(path: Path) -> Iterator[str]:
    """The parts of a path that are keys of the plan file's format."""
    parent: object = None
    for part in path:
        if isinstance(part, str) and parent not in _FREE_KEYS:
            yield part
        parent = None if parent in _FREE_KEYS else part
