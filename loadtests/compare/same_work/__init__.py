"""The plan file as Lua tables for the nginx that does a sidecar's work.

This module computes what is known before the first request: commands to Redis as they are sent, and
the text of events around the values that differ.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

import hiredis
import redis

from sidecar.config.loading import load as load_plans
from sidecar.core.events.build import usage_event
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit
from sidecar.core.model import Claim, Entitlement, Key, Route
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.stores.commands import Commands
from sidecar.stores.connection.wire import encode
from sidecar.stores.scripts import load as load_script

SOURCE: Final = "/sidecar/default"
# The values of an event that differ per request, in its order, and whether they are text.
_VALUES: Final = {
    "id": True, "time": True, "method": True, "status": False, "overage": False, "reason": True,
    "latency_ms": False, "bytes_in": False, "bytes_out": False,
}  # fmt: skip
_OUTCOME: Final = Outcome(0, OutcomeReason.OK, 0, 0, 0)

Lua = str | bytes | int | bool | Sequence["Lua"] | Mapping[str | bytes, "Lua"]


def tables(plans: Path, redis_port: int, events: Path) -> str:
    """A Lua expression with the tables of `gate.lua`.

    `events` is the file that gets the events.
    """
    book = load_plans(plans)
    commands = Commands("qs")
    with redis.Redis(port=redis_port) as client:
        seconds, micros = client.time()
    now_us = int(seconds) * MICRO + int(micros)
    keys: dict[str | bytes, Lua] = {}
    for digest, key in book.keys.items():
        entitlements = [book.entitlements[key.account.plan, route.id] for route in book.routes]
        calls = [_call(commands, key, one, book.version, now_us) for one in entitlements]
        keys[digest] = {"account": key.account.id, "id": key.id, "calls": calls}
    result: dict[str | bytes, Lua] = {
        "redis": redis_port, "events": str(events), "spool": str(uuid4()), "keys": keys,
        "routes": [_route(route) for route in book.routes],
    }  # fmt: skip
    return _lua(result)


def _route(route: Route) -> Lua:
    path, stars, rest = route.pattern.partition("/**")
    if not stars or rest or "*" in path or "{" in path:
        raise ValueError(f"gate.lua cannot match {route.pattern}")
    one: dict[str | bytes, Lua] = {"itself": path or "/", "prefix": path + "/"}
    return one | {"method": route.method} if route.method else one


def _call(
    commands: Commands, key: Key, entitlement: Entitlement, version: str, now_us: int
) -> dict[str | bytes, Lua]:
    """The table of an API key's requests to a route."""
    if (
        entitlement.stays_open
        or entitlement.estimates
        or entitlement.missing
        or entitlement.plan.refunds
    ):
        raise ValueError(f"gate.lua does not support the plan's rules for {entitlement.route.id}")
    script = load_script("limits/reserve")
    reserve = commands.claims(script, key.account, key.id, entitlement.claims, now_us, leases=False)
    reader = hiredis.Reader()
    reader.feed(reserve)
    sent = reader.gets()
    route, plan = entitlement.route, entitlement.plan
    labels = f'route="{route.id}",class="{route.request_class}",plan="{plan.id}"'
    return {
        "reserve": reserve, "reserve_by_text": encode(b"EVAL", script.text, *sent[2:]),
        "plan": plan.id, "policy": entitlement.policy_field, "labels": labels, "forms": {},
        "limits": [_limit(claim) for claim in entitlement.claims],
        "event": _event(key, entitlement, version),
    }  # fmt: skip


def _limit(claim: Claim) -> Lua:
    limit = claim.limit
    one: dict[str | bytes, Lua] = {
        "field": f'"{limit.id}";r=', "forced": claim.forced, "cost": claim.cost
    }  # fmt: skip
    if isinstance(limit, QuotaLimit):
        return one | {"quota": True, "units": limit.units, "cap": limit.cap}
    if not isinstance(limit, RateLimit):
        raise ValueError(f"gate.lua does not support a limit like {limit.id}")
    return one | {"quota": False, "units": limit.burst, "gain": limit.refill[0],
                  "per": limit.refill[1]}  # fmt: skip


def _event(key: Key, entitlement: Entitlement, version: str) -> Lua:
    """The parts of an event's text around its values, without the opening brace."""
    if len(entitlement.route.cost) != 1:
        raise ValueError(f"gate.lua supports one meter, but {entitlement.route.id} has others")
    marks = {name: f"\0{name}" for name in _VALUES}
    event = usage_event(
        id=marks["id"], source=SOURCE, time=marks["time"], key=key, entitlement=entitlement,
        plan_version=version, method=marks["method"], outcome=_OUTCOME,
    )  # fmt: skip
    data = event["data"]
    data.update({name: mark for name, mark in marks.items() if name in data})
    data["overage"] = dict.fromkeys(data["usage"], marks["overage"])
    rest = '",' + json.dumps(event, separators=(",", ":"))[1:]
    parts = []
    for name, is_text in _VALUES.items():
        quote = '"' if is_text else ""
        part, _, rest = rest.partition(json.dumps(marks[name]))
        parts.append(part + quote)
        rest = quote + rest
    return [*parts, rest]


def _lua(value: Lua) -> str:
    """The value as a Lua expression."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _lua(value.encode())
    if isinstance(value, bytes):
        plain = b'[]"\\{}'
        return '"' + "".join(
            chr(byte) if 32 <= byte < 127 and byte not in plain else f"\\{byte:03d}"
            for byte in value
        ) + '"'  # fmt: skip
    if isinstance(value, Mapping):
        return "{" + ",".join(f"[{_lua(name)}]={_lua(one)}" for name, one in value.items()) + "}"
    return "{" + ",".join(map(_lua, value)) + "}"
