"""Two teams of one account: one floods, and the other still gets its guarantee."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from sidecar.core.model import Pack
from sidecar.explain import ExplainedRequest
from sidecar.gate import Admission
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from sidecar.stores.inspector import Inspector
from tests.support.stage import Stage, StartStage, problem, status

ROOM = 30  # timeout in seconds, never a measure
PLANS = """
version: 1
meters:
  requests: {{unit: request}}
  tokens: {{unit: token, settle: {{json: usage.total_tokens}}}}
routes:
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: chat, match: "POST /chat", cost: {{tokens: 100}}}}
  - {{id: rest, match: "/**"}}
plans:
  pro:
    limits:
      - {{id: monthly, meter: requests, quota: 10/month}}
      - {{id: tokens, meter: tokens, quota: 1000/month}}
    refund: [upstream_5xx]
accounts:
  - id: acme
    plan: pro
    teams: {{search: {{share: 40%, lend: false}}, ads: {{share: 30%, lend: false}}}}
    keys:
      - {{id: k1, sha256: {search}, team: search}}
      - {{id: k2, sha256: {ads}, team: ads}}
      - {{id: k3, sha256: {nobody}}}
"""


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    started = await stage()
    digests = {n: hashlib.sha256(n.encode()).hexdigest() for n in ("search", "ads", "nobody")}
    started.plans.write_text(PLANS.format(**digests))
    await started.app.keeper.reload()
    return started


async def admitted(here: Stage, key: str, most: int = 20) -> int:
    """Send requests until one is refused. Returns how many passed."""
    for number in range(most):
        if status(await here.call("GET", "/x", key)) == 429:
            return number
    return most


async def settled(here: Stage) -> None:
    settler = here.app.store.redis.settler
    async with asyncio.timeout(ROOM):
        while settler.pending or settler.open:
            await asyncio.sleep(0)


async def usage(here: Stage) -> list[dict[str, Any]]:
    return [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]


async def used(here: Stage, team: str, limit_id: str = "monthly") -> int:
    """The usage by the counter in Redis."""
    with Inspector(here.app.settings.redis.get_secret_value(), "qs") as inspector:
        state = inspector.read("acme").state.states.get(keys.team_field(limit_id, team))
    return state.used if state else 0


async def test_a_flood_of_one_team_leaves_the_other_its_guarantee(here: Stage) -> None:
    assert await admitted(here, "ads") == 6  # its 3, and the 3 that are not guaranteed to a team
    assert await admitted(here, "nobody") == 0
    assert await admitted(here, "search") == 4
    assert await admitted(here, "search") == 0
    assert [await used(here, team) for team in ("search", "ads")] == [4, 6]
    assert [event.get("team") for event in await usage(here)] == ["ads"] * 6 + ["search"] * 4


async def test_I10_a_refusal_names_the_units_guaranteed_to_other_teams(here: Stage) -> None:
    await admitted(here, "ads")
    refused = await here.call("GET", "/x", "ads")
    document = problem(refused)
    assert document["title"] == "Monthly quota: nothing left for this team"
    assert document["limit"]["team"] == {
        "id": "ads", "guaranteed": 3, "used": 6, "left": 0, "guaranteed_to_others": 4
    }  # fmt: skip
    assert [step["action"] for step in document["how_to_fix"]] == ["wait", "ask"]
    assert b'\r\nRateLimit: "monthly";r=0;t=' in refused


async def test_every_response_has_the_remaining_units_of_the_team(here: Stage) -> None:
    assert b'RateLimit: "monthly";r=6;t=' in await here.call("GET", "/x", "search")
    assert b'RateLimit: "monthly";r=2;t=' in await here.call("GET", "/x", "nobody")
    assert b'RateLimit: "monthly";r=4;t=' in await here.call("GET", "/x", "search")


async def test_I3_a_critical_request_of_any_team_passes_and_is_counted(here: Stage) -> None:
    assert await admitted(here, "ads") == 6
    assert status(await here.call("POST", "/login", "ads", Content_Length="0")) == 200
    assert await used(here, "ads") == 7


async def test_I5_late_costs_and_refunds_count_for_the_team(here: Stage) -> None:
    async def chat(key: str, tokens: int, code: int = 200) -> int:
        body = json.dumps({"usage": {"total_tokens": tokens}}).encode()
        head = b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        here.upstream.answer = head % (code, len(body)) + body
        answer = status(await here.call("POST", "/chat", key, Content_Length="0"))
        await settled(here)
        return answer

    assert await chat("ads", 280) == 200
    assert await used(here, "ads", "tokens") == 280
    assert await chat("ads", 90, code=503) == 503
    assert await used(here, "ads", "tokens") == 280
    assert await chat("nobody", 350) == 200  # 50 more than it has left: debt
    assert await chat("nobody", 0) == 429
    assert await chat("search", 20) == 200
    assert await chat("ads", 0) == 429  # beyond its guarantee, and nothing else is free
    teams = {"ads": 280, "search": 20, "": 350}
    assert {team: await used(here, team, "tokens") for team in teams} == teams


async def test_a_pack_is_for_all_teams(here: Stage) -> None:
    assert await admitted(here, "ads") == 6
    with Admin(here.app.settings.redis.get_secret_value(), "qs") as admin:
        pack = Pack("boost", "monthly", "requests", 2, "month")
        admin.grant(here.app.gate.book.accounts["acme"], pack, "order-1")
    assert await admitted(here, "ads") == 2
    assert await admitted(here, "search") == 4


async def test_a_tunnel_is_closed_when_its_team_has_nothing_left(here: Stage) -> None:
    text = here.plans.read_text()
    here.plans.write_text(text.replace("    refund:", "    tunnels_at_quota: close\n    refund:"))
    await here.app.keeper.reload()
    gate, call = here.app.gate, ExplainedRequest("GET", b"/x", [b"nobody"])
    admission = await gate.admit(call, read=None)  # type: ignore[arg-type]
    assert isinstance(admission, Admission)
    assert await gate.has_quota_left(admission)
    assert await admitted(here, "ads") == 5
    assert not await gate.has_quota_left(admission)


async def test_a_key_in_redis_belongs_to_its_team(here: Stage) -> None:
    with Admin(here.app.settings.redis.get_secret_value(), "qs") as admin:
        admin.set_account("bea", plan="pro", teams="web=70%:keep")
        made = admin.create_key("bea", random_bytes=bytes, team="web")[1]
        other = admin.create_key("bea", random_bytes=lambda n: b"1" * n)[1]
    assert await admitted(here, other) == 3
    assert await admitted(here, made) == 7
    assert [event.get("team") for event in await usage(here)] == [None] * 3 + ["web"] * 7
