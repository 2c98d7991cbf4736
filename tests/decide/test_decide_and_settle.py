"""Decide before a request, settle after it: the decisions and events of the data port."""

import asyncio
import json
from typing import Any

from tests.decide.conftest import StartDecide
from tests.support.decide_stage import Gateway, requests
from tests.support.stage import Stage, problem, status

TOKENS = {
    "meters: {requests: {unit: request}}": """meters:
  requests: {unit: request}
  tokens:
    unit: token
    reserve: {json: max_tokens, default: 100}
    settle: {json: usage.total_tokens}""",
    "routes:\n": 'routes:\n  - {id: chat, match: "POST /chat", cost: {tokens: reserve}}\n',
    "    limits:\n": "    limits:\n      - {id: tokens, meter: tokens, quota: 100000/month}\n",
}


async def used(here: Stage, name: str) -> int:
    """What Redis has counted of a limit of acme."""
    key = here.app.keeper.book.accounts["acme"]
    claims = next(
        one.claims for one in here.app.keeper.book.entitlements.values() if one.plan.id == key.plan
        and any(claim.limit.id == name for claim in one.claims)
    )  # fmt: skip
    answer = await here.app.store.peek(key, "k1", claims)
    return answer.used[[claim.limit.id for claim in claims].index(name)]


async def test_I4_an_allowed_request_has_one_event_when_it_is_settled(decide: StartDecide) -> None:
    here, gateway = await decide()
    decision = await gateway.decide("GET", "/items?x=1")
    assert decision["decision"] == "allow"
    assert (decision["account"], decision["plan"], decision["route"]) == ("acme", "free", "rest")
    assert decision["request_headers"] == {
        "X-Account-Id": "acme",
        "X-Plan": "free",
        "X-Key-Id": "k1",
        "X-Request-Id": decision["request_id"],
    }
    assert decision["response_headers"]["RateLimit"].startswith('"monthly";r=999')
    assert decision["left"]["remaining"] == 999
    assert await requests(here) == []
    answer = await gateway.settle(decision, status=201, latency_ms=7, bytes_in=3, bytes_out=9)
    assert answer.document == {"id": decision["id"], "usage": {"requests": 1}, "billable": True}
    [event] = await requests(here)
    data = event["data"]
    assert event["id"] == decision["request_id"]
    assert (data["status"], data["latency_ms"], data["bytes_in"], data["bytes_out"]) == (
        201,
        7,
        3,
        9,
    )
    assert (data["reason"], data["method"]) == ("ok", "GET")


async def test_a_repeated_settlement_changes_nothing(decide: StartDecide) -> None:
    here, gateway = await decide()
    decision = await gateway.decide("GET", "/items")
    first = await gateway.settle(decision)
    again = await gateway.settle(decision, status=500)
    assert again.document == first.document
    assert [event["data"]["status"] for event in await requests(here)] == [200]


async def test_the_settlement_of_an_unknown_decision_gets_404(decide: StartDecide) -> None:
    _, gateway = await decide()
    for number in (0, 7):
        name = f"019e0000-0000-7000-8000-000000000000.{number}"
        answer = await gateway.ask("/v1/settle", {"id": name, "status": 200})
        assert (answer.status, answer.document["member"]) == (404, "id")


async def test_I2_a_refusal_is_the_whole_response_and_leaves_no_trace(decide: StartDecide) -> None:
    here, gateway = await decide(quota=1)
    await gateway.decide("GET", "/items", settle=False)
    before = await used(here, "monthly")
    refused = await gateway.decide("GET", "/items")
    assert (refused["decision"], refused["status"], refused["reason"]) == ("refuse", 429, "quota")
    assert refused["id"] is None
    direct = await here.call("GET", "/items")
    assert status(direct) == 429
    body, expected = json.loads(refused["body"]), problem(direct)
    assert body.keys() == expected.keys()
    assert body["detail"] == expected["detail"]
    assert refused["headers"]["Content-Type"] == "application/problem+json"
    assert int(refused["headers"]["Retry-After"]) > 0
    assert await used(here, "monthly") == before
    assert len(await requests(here)) == 1


async def test_a_client_that_prefers_text_gets_the_refusal_as_text(decide: StartDecide) -> None:
    _, gateway = await decide()
    refused = await gateway.decide("GET", "/items", key="unknown", headers={"Accept": "text/plain"})
    assert refused["status"] == 401
    assert refused["headers"]["Content-Type"].startswith("text/plain")
    assert refused["body"].startswith("401 Unknown API key")


async def test_I3_a_critical_request_is_allowed_with_a_used_up_quota(decide: StartDecide) -> None:
    here, gateway = await decide(quota=1)
    for _ in range(3):
        decision = await gateway.decide("POST", "/login")
        assert (decision["decision"], decision["class"]) == ("allow", "critical")
        assert (await gateway.settle(decision)).status == 200
    assert len(await requests(here)) == 3


async def test_without_settlement_the_event_is_there_with_the_decision(decide: StartDecide) -> None:
    here, gateway = await decide()
    decision = await gateway.decide("GET", "/items", settle=False)
    assert decision["id"] is None
    [event] = await requests(here)
    assert (event["data"]["status"], event["data"]["reason"]) == (0, "ok")
    assert event["data"]["usage"] == {"requests": 1}
    assert here.app.shedder.in_flight == 0


async def test_costs_of_the_response_settle_by_usage_by_body_or_by_estimate(
    decide: StartDecide,
) -> None:
    here, gateway = await decide(plans=TOKENS)
    json_type = {"Content-Type": "application/json"}
    reports: list[dict[str, Any]] = [
        {"usage": {"tokens": 40}},
        {"headers": json_type, "body": '{"usage": {"total_tokens": 50}}'},
        {},
        {"usage": {"tokens": 3}, "status": 500},
        {"usage": {"tokens": 7, "requests": 5}},
    ]
    settled = []
    for report in reports:
        decision = await gateway.decide(
            "POST", "/chat", headers=json_type, body='{"max_tokens": 60}'
        )
        assert decision["report"] == ["usage", "headers", "body"]
        settled.append((await gateway.settle(decision, **report)).document["usage"]["tokens"])
    assert settled == [40, 50, 60, 3, 7]
    async with asyncio.timeout(10):
        while await used(here, "tokens") != sum(settled):
            await asyncio.sleep(0.01)
    events = await requests(here)
    assert [event["data"]["usage"]["tokens"] for event in events] == settled
    assert [event["data"].get("estimated") for event in events][2] == {"tokens": "unanswered"}


async def test_a_body_that_the_gateway_does_not_send_counts_as_the_default(
    decide: StartDecide,
) -> None:
    _, gateway = await decide(plans=TOKENS)
    decision = await gateway.decide("POST", "/chat", headers={"Content-Length": "20"})
    assert (await gateway.settle(decision)).document["usage"] == {"tokens": 100}


async def test_a_slot_is_free_again_after_the_settlement(decide: StartDecide) -> None:
    slots = {"    limits:\n": "    limits:\n      - {id: slots, concurrency: 1}\n"}
    _, gateway = await decide(plans=slots)
    first = await gateway.decide("GET", "/items")
    assert (await gateway.decide("GET", "/items"))["reason"] == "concurrency"
    assert (await gateway.settle(first)).status == 200
    async with asyncio.timeout(10):
        while (await gateway.decide("GET", "/items"))["decision"] != "allow":
            await asyncio.sleep(0.01)


async def test_a_decision_waits_for_a_slot_as_long_as_the_settings_allow(
    decide: StartDecide,
) -> None:
    slots = {"    limits:\n": "    limits:\n      - {id: slots, concurrency: 1, max_wait: 9s}\n"}
    here, gateway = await decide(plans=slots, decide_wait_ms=9_000)
    first = await gateway.decide("GET", "/items")
    other = Gateway(gateway.path)
    assert (await other.decide("GET", "/items", wait_ms=0))["decision"] == "refuse"
    waiting = asyncio.ensure_future(other.decide("GET", "/items"))
    async with asyncio.timeout(10):
        while not here.app.room.waiting:
            await asyncio.sleep(0.01)
    assert (await gateway.settle(first)).status == 200
    decision = await waiting
    assert decision["decision"] == "allow"
    assert int(decision["response_headers"]["X-Queued-Ms"]) >= 0
    await other.close()


async def test_a_gateway_that_leaves_takes_its_request_out_of_the_wait_queue(
    decide: StartDecide,
) -> None:
    slots = {"    limits:\n": "    limits:\n      - {id: slots, concurrency: 1, max_wait: 9s}\n"}
    here, gateway = await decide(plans=slots, decide_wait_ms=9_000)
    await gateway.decide("GET", "/items")
    other = Gateway(gateway.path)
    waiting = asyncio.ensure_future(other.decide("GET", "/items"))
    async with asyncio.timeout(10):
        while not here.app.room.waiting:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        await other.close()
        while here.app.room.waiting:
            await asyncio.sleep(0.01)
