"""A usage event as in a spool or a file of a sink, and spools with such events."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidecar.metering.spool import Spool

EVENT = {
    "specversion": "1.0", "id": "019", "source": "/sidecar/shop", "type": "api.request.v1",
    "subject": "acme", "time": "2026-11-23T08:30:00.123Z", "datacontenttype": "application/json",
    "data": {
        "key": "k1", "plan": "pro", "plan_version": "sha256:ab", "route": "chat",
        "class": "standard", "method": "POST", "status": 200, "usage": {"requests": 1, "tokens": 0},
        "overage": {"requests": 0, "tokens": 0}, "billable": True, "reason": "ok",
        "latency_ms": 41, "bytes_in": 512, "bytes_out": 2048,
    },
}  # fmt: skip
NOON_US = 1_795_422_600_000_000  # 2026-11-23T08:30:00Z


def an_event(path: str = "", value: Any = None) -> dict[str, Any]:
    """The event with one value changed, or removed if the value is `...`."""
    event: dict[str, Any] = json.loads(json.dumps(EVENT))
    inside = event["data"] if path.startswith("data.") else event
    name = path.rpartition(".")[2]
    if value is ...:
        del inside[name]
    elif path:
        inside[name] = value
    return event


def write_spool(directory: Path, events: Iterable[dict[str, Any]]) -> None:
    """Append these events to a real spool, and close it. Not for a running loop."""

    async def write() -> None:
        spool = Spool(directory)
        spool.open()
        for event in events:
            spool.append(event)
        await spool.close()

    asyncio.run(write())
