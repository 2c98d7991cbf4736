"""A plan file for deferred jobs, and requests with JSON answers."""

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tests.support.stage import Stage, StartStage, status

ROOM = 30  # seconds until a test gives up
PLANS = """
version: 1
meters: {{requests: {{unit: request}}}}
routes:
  - {{id: status, match: "GET /status", class: critical, cost: {{}}}}
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: export, match: "/exports/**", class: deferrable}}
  - {{id: huge, match: "/huge", class: deferrable, cost: {{requests: 500}}}}
  - {{id: rest, match: "/**"}}
plans:
  free:
    limits: [{{id: monthly, meter: requests, quota: {quota}/month}}]
    when_store_is_down: deny
  slots:
    limits: [{{id: in-flight, concurrency: 1}}]
packs:
  boost: {{meter: requests, units: {boost}, lasts: month}}
accounts:
{accounts}
"""
PLAN_OF = {"acme": "free", "other": "free", "slots": "slots"}


def jobs_plan(quota: int = 1, boost: int = 3, webhook: str = "") -> str:
    """Return the plan file; the API keys are the accounts' names."""
    more = f', webhook: "{webhook}"' if webhook else ""
    accounts = [
        f"  - {{id: {name}, plan: {plan}{more}, keys: [{{id: k1, sha256: "
        f"{hashlib.sha256(name.encode()).hexdigest()}}}]}}"
        for name, plan in PLAN_OF.items()
    ]
    return PLANS.format(quota=quota, boost=boost, accounts="\n".join(accounts))


@dataclass
class Answer:
    """One parsed answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer_of(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
    return Answer(status(raw), {name.lower(): value for name, _, value in lines}, body)


async def ask(
    here: Stage, method: str, path: str, body: bytes = b"", key: str = "acme", **fields: str
) -> Answer:
    """Send one request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {key}\r\n"
    if body or method == "POST":
        head += f"Content-Length: {len(body)}\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return answer_of(await here.raw(head.encode() + b"\r\n" + body))


async def until_job(here: Stage, href: str, *states: str, key: str = "acme") -> Any:
    """Return the job's document when it is in one of these states."""
    async with asyncio.timeout(ROOM):
        while True:
            answer = await ask(here, "GET", href, key=key)
            assert answer.status == 200, answer
            if answer.json["state"] in states:
                return answer.json
            await asyncio.sleep(0.01)


async def a_stage(stage: StartStage, *, used_up: bool = True, **flags: Any) -> Stage:
    """Return a running sidecar; the quota of account acme is used up unless `used_up` is false."""
    plan = {name: flags.pop(name) for name in ("quota", "boost", "webhook") if name in flags}
    here = await stage(**flags)
    here.plans.write_text(jobs_plan(**plan))
    assert await here.app.keeper.reload()
    if used_up:
        for number in range(plan.get("quota", 1)):
            assert (await ask(here, "GET", f"/first/{number}")).status == 200
    return here
