"""Events of changes that commands make: plans, status, API keys and packs of accounts. Pure.

A command writes a record, next to the change in Redis. A sidecar makes the event of it. So the
event has the same id and source, whichever sidecar makes it, and copies count once.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final

from sidecar.core.events.build import REDIS, cloud_event
from sidecar.core.kinds import MICRO
from sidecar.core.model import Pack
from sidecar.core.text import instant

PLAN: Final = "account.plan.v1"
STATUS: Final = "account.status.v1"
SET: Final = "account.set.v1"
DELETED: Final = "account.deleted.v1"
KEY: Final = "account.key.v1"
GRANT: Final = "account.grant.v1"
ACTIVE: Final = "active"

Change = tuple[str, dict[str, Any]]  # type of the event, and its data


def account_changes(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    """Return the changes between two records of an account in Redis; {}: without one."""
    changes: list[Change] = []
    if before.get("plan") != after.get("plan") or _move(before) != _move(after):
        data: dict[str, Any] = {"from": before.get("plan"), "to": after.get("plan")}
        if _move(after):
            data["next"] = _move(after)
        changes.append((PLAN, data))
    if before.get("status", ACTIVE) != after.get("status", ACTIVE):
        status = {"from": before.get("status", ACTIVE), "to": after.get("status", ACTIVE)}
        changes.append((STATUS, status))
    fields = [
        name
        for name in ("timezone", "anchor", "teams", "webhook")
        if before.get(name, "") != after.get(name, "")
    ]
    if fields:
        shown = [
            {name: _shown(name, one.get(name, "")) for name in fields} for one in (before, after)
        ]
        changes.append((SET, {"from": shown[0], "to": shown[1]}))
    return changes


def _move(record: dict[str, str]) -> dict[str, str] | None:
    """The scheduled move of a record: its plan and instant."""
    if not record.get("then") or not record.get("then_us", "").isdigit():
        return None
    return {"plan": record["then"], "at": instant(int(record["then_us"]))}


def _shown(name: str, value: str) -> str | bool | None:
    """A field's value; of a webhook, only whether it is set, as its URL may have a credential."""
    return bool(value) if name == "webhook" else value or None


def key_change(action: str, key_id: str, **more: Any) -> Change:
    """Return the change of an API key: "created", "rotated" or "revoked"."""
    return KEY, {"action": action, "key": key_id, **{n: v for n, v in more.items() if v}}


def grant_change(pack: Pack, grant_id: str, plan: str, plan_version: str) -> Change:
    """Return the change by a pack; its end follows with the record."""
    return GRANT, {
        "grant": grant_id,
        "pack": pack.id,
        "limit": pack.limit,
        "meter": pack.meter,
        "units": pack.units,
        "price": pack.price or None,
        "plan": plan,
        "plan_version": plan_version or None,
    }


def grant_identity(account: str, grant_id: str) -> str:
    """Return the id of the event of a grant: the same whenever the grant is made again."""
    return f"grant/{account}/{grant_id}"


def record_body(identity: str, change: Change) -> str:
    """Return the part of a record that is known before the change."""
    return json.dumps([identity, *change], separators=(",", ":"))


def record(at_us: int, body: str) -> str:
    """Return the record of a change at this instant in Redis time."""
    return f"{at_us} 0 {body}"


def event_of(text: str, account: str, source: str) -> dict[str, Any]:
    """Return the event of a record: its instant, the end of what was given or 0, its body.

    Raises ValueError if it is not a record.
    """
    at_us, ends_us, body = text.split(" ", 2)
    identity, kind, data = json.loads(body)
    if not (isinstance(identity, str) and isinstance(kind, str) and isinstance(data, dict)):
        raise ValueError("a record has an id, a type and data")
    if int(ends_us):
        data["expires_at"] = instant(int(ends_us))
    second, rest = divmod(int(at_us), MICRO)
    when = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    time = f"{when}.{rest // 1000:03d}Z"
    return cloud_event(identity, source, kind, account, time, data, REDIS)
