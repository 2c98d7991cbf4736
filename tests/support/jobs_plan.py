"""A plan file for deferred jobs, an API that says what it was asked, and calls by JSON."""

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tests.support.stage import Stage, StartStage, status

ROOM = 30  # seconds after which what does not happen will not
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
    """The keys are the accounts' names."""
    more = f', webhook: "{webhook}"' if webhook else ""
    accounts = [
        f"  - {{id: {name}, plan: {plan}{more}, keys: [{{id: k1, sha256: "
        f"{hashlib.sha256(name.encode()).hexdigest()}}}]}}"
        for name, plan in PLAN_OF.items()
    ]
    return PLANS.format(quota=quota, boost=boost, accounts="\n".join(accounts))


@dataclass
class Answer:
    """One answer, taken apart."""

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
    """One request, with a body if there is one."""
    head = f"{method} {path} HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: {key}\r\n"
    if body or method == "POST":
        head += f"Content-Length: {len(body)}\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return answer_of(await here.raw(head.encode() + b"\r\n" + body))


async def until_job(here: Stage, href: str, *states: str, key: str = "acme") -> Any:
    """The job's document, once it is in one of these states."""
    async with asyncio.timeout(ROOM):
        while True:
            told = await ask(here, "GET", href, key=key)
            assert told.status == 200, told
            if told.json["state"] in states:
                return told.json
            await asyncio.sleep(0.01)


async def a_stage(stage: StartStage, *, spent: bool = True, **flags: Any) -> Stage:
    """A running sidecar whose account acme has used up its quota of 1."""
    plan = {name: flags.pop(name) for name in ("quota", "boost", "webhook") if name in flags}
    here = await stage(**flags)
    here.plans.write_text(jobs_plan(**plan))
    assert await here.app.keeper.reload()
    if spent:
        for number in range(plan.get("quota", 1)):
            assert (await ask(here, "GET", f"/first/{number}")).status == 200
    return here
