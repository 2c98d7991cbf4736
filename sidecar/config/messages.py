"""What pydantic found, in words for the person who writes the plan file."""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Final

from pydantic import BaseModel

from sidecar.config import models
from sidecar.config.positions import Path
from sidecar.config.values import shown

# One of several, as it would be written, and what stands under a key.
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
    "json": "usage.total_tokens", "default": "1024", "max_bytes": "262144",
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
_SHA256: Final = 'is not a SHA-256 in hex; make one with: printf %s "$KEY" | sha256sum'
# Keys of these are of one's own choice.
_NAMED: Final = {"meters", "plans", "cost", "at", "packs", "teams"}
_SHAPES: Final[dict[str, type[BaseModel]]] = {
    "meters": models.MeterModel, "reserve": models.ReserveModel, "settle": models.SettleModel,
    "routes": models.RouteModel, "plans": models.PlanModel,
    "limits": models.LimitModel, "accounts": models.AccountModel, "keys": models.KeyModel,
    "links": models.LinksModel, "anonymous": models.AnonymousModel,
    "packs": models.PackModel,
    "then": models.ThenModel, "teams": models.TeamModel, "critical": models.GuardModel,
}  # fmt: skip
_WORDS_OF_ACCOUNTS: Final = {"accounts", "from", *models.AccountModel.model_fields,
                             *models.KeyModel.model_fields,
                             *models.TeamModel.model_fields}  # fmt: skip


def public(path: Path) -> Path:
    """A path without what may be a secret: under accounts, keys that nobody knows."""
    if path[:1] != ("accounts",):
        return path
    return tuple(
        part if isinstance(part, int) or part in _WORDS_OF_ACCOUNTS else "…" for part in path
    )


def explain(error: Any) -> str:
    """One sentence: what is wrong; what to write instead. No value under `accounts` is repeated."""
    kind, path, given = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(path)
    if kind == "missing":
        return f"is missing; add `{path[-1]}: {_example(path) or '…'}`"
    if kind == "value_error":
        return str(context["error"])
    if not path:
        return "the file has no keys; start with `version: 1`"
    private = path[0] == "accounts"
    if path[-1] == "sha256":
        return _not_a_digest(given)
    if given is None:
        return "is empty; " + _like(path, "remove it, or write what belongs here")
    if kind == "literal_error":
        return f"{_it(given, private)} is not one of them; write {_choice(context['expected'])}"
    if kind == "string_pattern_mismatch":
        return f"{_it(given, private)} {_misnamed(path)}"
    if kind == "too_short":
        return "has nothing in it; " + _like(path, "name at least one")
    if kind in ("greater_than_equal", "less_than_equal"):
        return _beyond(given, context)
    return _of_another_kind(kind, path, given, private)


def _of_another_kind(kind: str, path: Path, given: Any, private: bool) -> str:
    wanted = {
        "string_type": "a text", "int_type": "a whole number", "tuple_type": "a list",
        "dict_type": "a mapping", "model_type": "a mapping",
    }.get(kind)  # fmt: skip
    if wanted is None:
        return f"{_it(given, private)} does not fit here; " + _like(path, "see `sidecar schema`")
    if wanted == "a text" and not isinstance(given, dict | list):
        return f"{_it(given, private)} is {_read_as(given)}; " + _like(path, "put it in quotes")
    return f"{_it(given, private)} is not {wanted}; " + _like(path, f"write {wanted}")


def _read_as(given: Any) -> str:
    if isinstance(given, bool):
        return "read as yes or no"
    return "a number" if isinstance(given, int | float) else "read as a day"


def _it(given: Any, private: bool) -> str:
    return "this" if private else shown(given)


def _like(path: Path, otherwise: str) -> str:
    example = _example(path)
    return f"write it like {example}" if example else otherwise


def _example(path: Path) -> str | None:
    """What could stand at `path`."""
    name, above = str(path[-1]), path[-2] if len(path) > 1 else None
    if isinstance(path[-1], int) or above in _NAMED:
        return _ITEMS.get(str(above))
    return _EXAMPLES.get(name)


def _misnamed(path: Path) -> str:
    name = path[-1] if isinstance(path[-1], str) and path[-1] != "[key]" else path[-2]
    if name == "unit":
        return "is not a unit; write one word in small letters, like request"
    if name == "header":
        return "is not the name of a header field; write it like X-Credits"
    if name == "price":
        return "is not a price; write at most 64 plain letters and digits, like 5.00 USD"
    if name in ("upgrade", "docs", "packs"):
        return "is not an address; write it like https://example.com/pricing"
    if path[0] == "accounts" and name == "id" and "keys" not in path:
        return 'is not a name; write up to 128 letters, digits, ".", "_", "@" or "-", like acme-1'
    return 'is not a name; write up to 64 small letters, digits, ".", "_" or "-", like my-name'


def _not_a_digest(given: Any) -> str:
    if isinstance(given, str) and re.fullmatch(r"[0-9A-Fa-f]{64}", given):
        return "has capital letters; write it in lower case"
    return _SHA256


def _beyond(given: Any, context: Any) -> str:
    if "ge" in context:
        return f"{shown(given)} is too small; write at least {context['ge']:_}"
    return f"{shown(given)} is too large; write at most {context['le']:_}"


def _choice(expected: str) -> str:
    """pydantic's "'a', 'b' or 'c'" without the quotes."""
    return expected.replace("'", "")


def _unknown(path: Path) -> str:
    name = str(path[-1])
    shape: type[BaseModel] = models.FileModel
    for part in _keys(path[:-1]):
        shape = _SHAPES.get(part, shape)
    known = [field.alias or name for name, field in shape.model_fields.items()]
    close = get_close_matches(name, known, 1)
    what = shown(name) if close or path[0] != "accounts" else "this"
    if close:
        return f'{what} is not known here; did you mean "{close[0]}"?'
    return f"{what} is not known here; known are {', '.join(known)}"


def _keys(path: Path) -> Iterator[str]:
    """Those parts of a path that are words of the plan language."""
    before: object = None
    for part in path:
        if isinstance(part, str) and before not in _NAMED:
            yield part
        before = None if before in _NAMED else part
