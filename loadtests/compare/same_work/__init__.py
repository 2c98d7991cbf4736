"""nginx that does a sidecar's work: the plan file as the Lua tables that its scripts read.

What can be worked out before the first request is worked out here: commands to Redis as they are
sent, and the text of events around the values that differ.
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
from sidecar.core.model import MICRO, Claim, Entitlement, Key, QuotaLimit, RateLimit, Route
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.stores.commands import Commands
from sidecar.stores.connection.wire import encode
from sidecar.stores.scripts import load as load_script

SOURCE: Final = "/sidecar/default"
# The values of an event that differ from call to call, in its order, and whether they are text.
_PLACES: Final = {
    "id": True, "time": True, "method": True, "status": False, "overage": False, "reason": True,
    "latency_ms": False, "bytes_in": False, "bytes_out": False,
}  # fmt: skip
_PLAIN: Final = Outcome(0, OutcomeReason.OK, 0, 0, 0)

Lua = str | bytes | int | bool | Sequence["Lua"] | Mapping[str | bytes, "Lua"]


def tables(plans: Path, redis_port: int, events: Path) -> str:
    """A Lua expression: all that `gate.lua` has to know. `events`: the file to write them to."""
    book = load_plans(plans)
    commands = Commands("qs")
    with redis.Redis(port=redis_port) as client:
        seconds, micros = client.time()
    now_us = int(seconds) * MICRO + int(micros)
    keys: dict[str | bytes, Lua] = {}
    for digest, key in book.keys.items():
        found = [book.entitlements[key.account.plan, route.id] for route in book.routes]
        calls = [_call(commands, key, one, book.version, now_us) for one in found]
        keys[digest] = {"account": key.account.id, "id": key.id, "calls": calls}
    made: dict[str | bytes, Lua] = {
        "redis": redis_port, "events": str(events), "spool": str(uuid4()), "keys": keys,
        "routes": [_route(route) for route in book.routes],
    }  # fmt: skip
    return _lua(made)


def _route(route: Route) -> Lua:
    path, stars, rest = route.pattern.partition("/**")
    if not stars or rest or "*" in path or "{" in path:
        raise ValueError(f"gate.lua cannot match {route.pattern}")
    one: dict[str | bytes, Lua] = {"itself": path or "/", "prefix": path + "/"}
    return one | {"method": route.method} if route.method else one


def _call(
    commands: Commands, key: Key, found: Entitlement, version: str, now_us: int
) -> dict[str | bytes, Lua]:
    """What is known of a key's calls to a route."""
    if found.stays_open or found.estimates or found.missing or found.plan.refunds:
        raise ValueError(f"gate.lua cannot do what the plan says of {found.route.id}")
    script = load_script("reserve")
    reserve = commands.claims(script, key.account, key.id, found.claims, now_us, leases=False)
    reader = hiredis.Reader()
    reader.feed(reserve)
    sent = reader.gets()
    labels = f'route="{found.route.id}",class="{found.route.request_class}",plan="{found.plan.id}"'
    return {
        "reserve": reserve, "reserve_by_text": encode(b"EVAL", script.text, *sent[2:]),
        "plan": found.plan.id, "policy": found.policy_field, "labels": labels, "forms": {},
        "limits": [_limit(claim) for claim in found.claims],
        "event": _event(key, found, version),
    }  # fmt: skip


def _limit(claim: Claim) -> Lua:
    limit = claim.limit
    one: dict[str | bytes, Lua] = {
        "told": f'"{limit.id}";r=', "forced": claim.forced, "cost": claim.cost
    }  # fmt: skip
    if isinstance(limit, QuotaLimit):
        return one | {"quota": True, "units": limit.units, "cap": limit.cap}
    if not isinstance(limit, RateLimit):
        raise ValueError(f"gate.lua knows no limit like {limit.id}")
    return one | {"quota": False, "units": limit.burst, "gain": limit.refill[0],
                  "per": limit.refill[1]}  # fmt: skip


def _event(key: Key, found: Entitlement, version: str) -> Lua:
    """The text of an event, cut where its values are; without the brace that opens it."""
    if len(found.route.cost) != 1:
        raise ValueError(f"gate.lua counts one meter, {found.route.id} has others")
    marks = {name: f"\0{name}" for name in _PLACES}
    event = usage_event(
        id=marks["id"], source=SOURCE, time=marks["time"], key=key, entitlement=found,
        plan_version=version, overage=(), method=marks["method"], outcome=_PLAIN,
    )  # fmt: skip
    data = event["data"]
    data.update({name: mark for name, mark in marks.items() if name in data})
    data["overage"] = dict.fromkeys(data["usage"], marks["overage"])
    rest = '",' + json.dumps(event, separators=(",", ":"))[1:]
    parts = []
    for name, is_text in _PLACES.items():
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
