"""Concurrency, late costs, refunds, packs and shadow mode: responses, counters and events."""

import asyncio
from typing import Any

import pytest

from sidecar.core.answers import Answer
from sidecar.core.model import Account, Pack
from sidecar.core.routing import RouteTable
from sidecar.stores.admin import Admin
from tests.support.limits_plan import limits_plan
from tests.support.stage import Stage, StartStage, problem, status

ROOM = 30  # timeout in seconds, never a measure


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    started = await stage()
    started.plans.write_text(limits_plan())
    await started.app.keeper.reload()
    return started


async def settled(here: Stage) -> None:
    """Return when every reservation is settled."""
    settler = here.app.store.redis.settler
    async with asyncio.timeout(ROOM):
        while settler.pending or settler.open:
            await asyncio.sleep(0)


async def counters(here: Stage, account: str, method: str = "POST", path: str = "/chat") -> Answer:
    """The counters of a route's limits, in plan order."""
    book = here.app.gate.book
    route = RouteTable(book.routes).find(method, path.encode())
    assert route is not None
    found = book.entitlements[book.accounts[account].plan, route.id]
    return await here.app.store.peek(book.accounts[account], "k1", found.claims)


async def usage(here: Stage) -> list[dict[str, Any]]:
    return [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]


async def test_I2_an_internal_error_leaves_no_slot_taken(here: Stage) -> None:
    def fails(_seen: object) -> None:
        raise RuntimeError

    here.app.gate._recorder.on_decision = fails
    for _ in range(3):  # there are two slots
        assert status(await here.call("GET", "/x", "slots")) == 500
    here.app.gate._recorder.on_decision = None
    await settled(here)
    assert (await counters(here, "slots", "GET", "/x")).used == (0,)
    assert status(await here.call("GET", "/x", "slots")) == 200


async def chat(here: Stage, answer: str, key: str = "metered") -> bytes:
    body = answer.encode()
    here.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    return await here.call("POST", "/chat", key, Content_Length="0")


async def test_requests_beyond_the_slots_are_refused_until_one_ends(here: Stage) -> None:
    here.upstream.hold = True
    held = [asyncio.ensure_future(here.call("GET", f"/x{n}", "slots")) for n in range(2)]
    async with asyncio.timeout(ROOM):
        while here.upstream.received.count(b"GET /x") < 2:
            await asyncio.sleep(0)
    refused = await here.call("GET", "/x", "slots")
    document = problem(refused)
    assert (document["status"], document["title"]) == (429, "Too many requests at once")
    assert document["violated-policies"] == ["in-flight"]
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert b'RateLimit-Policy: "in-flight";q=2;qu="concurrent-requests"\r\n' in refused
    here.upstream.hold = False
    assert status(await here.call("GET", "/status", "slots")) == 200
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await settled(here)
    assert status(await here.call("GET", "/x", "slots")) == 200


async def test_I3_a_critical_request_needs_no_free_slot(here: Stage) -> None:
    here.upstream.hold = True
    held = [asyncio.ensure_future(here.call("GET", f"/x{n}", "slots")) for n in range(2)]
    async with asyncio.timeout(ROOM):
        while here.upstream.received.count(b"GET /x") < 2:
            await asyncio.sleep(0)
    here.upstream.hold = False
    assert status(await here.call("POST", "/login", "slots", Content_Length="0")) == 200
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    await settled(here)
    assert (await counters(here, "slots", "GET", "/x")).used == (0,)


@pytest.mark.parametrize(("reported", "charged"), [(350, 350), (20, 20), (0, 0), (1700, 1700)])
async def test_I5_the_reported_cost_is_charged_and_recorded(
    here: Stage, reported: int, charged: int
) -> None:
    assert status(await chat(here, f'{{"usage": {{"total_tokens": {reported}}}}}')) == 200
    await settled(here)
    [event] = await usage(here)
    assert event["usage"] == {"requests": 1, "tokens": charged}
    assert (await counters(here, "metered")).used == (1, charged)


async def test_I5_without_a_reported_cost_the_estimate_is_charged(here: Stage) -> None:
    await chat(here, "{}")
    await settled(here)
    [event] = await usage(here)
    assert (event["usage"]["tokens"], event["estimated"]) == (100, {"tokens": "missing"})
    assert (await counters(here, "metered")).used == (1, 100)


@pytest.mark.parametrize(
    ("estimate", "reported", "reserved", "charged"),
    [("7", "9", 7, 9), ("7", "0", 7, 0), (None, "5", 3, 5), ("7", None, 7, 7), ("x", "-1", 3, 3)],
)
async def test_I5_costs_are_read_from_header_fields_and_sizes(
    here: Stage, estimate: str | None, reported: str | None, reserved: int, charged: int
) -> None:
    line = b"" if reported is None else b"X-Credits-Used: %b\r\n" % reported.encode()
    here.upstream.answer = b"HTTP/1.1 200 OK\r\n%bContent-Length: 5\r\n\r\nhello" % line
    fields = {} if estimate is None else {"X_Credits": estimate}
    assert status(await here.call("POST", "/render", "metered", **fields)) == 200
    await settled(here)
    [event] = await usage(here)
    assert event["usage"] == {"credits": charged, "traffic": 5}
    assert ("estimated" in event) is (charged == reserved)
    assert (await counters(here, "metered", path="/render")).used == (charged, 5)


async def test_debt_refuses_the_next_request_and_a_settlement_sends_its_notice_once(
    here: Stage,
) -> None:
    await chat(here, '{"usage": {"total_tokens": 1700}}')
    await settled(here)
    refused = problem(await chat(here, "{}"))
    assert refused["violated-policies"] == ["tokens"]
    assert refused["limit"]["used"] == 1700
    notices = [e for e in await here.events() if e["type"] == "account.notice.v1"]
    assert [(n["data"]["limit"], n["data"]["percent"]) for n in notices] == [("tokens", 50)]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", b"rubbish\r\n"]
)
async def test_I5_a_refunded_request_costs_nothing_and_is_not_billable(
    here: Stage, answer: bytes
) -> None:
    here.upstream.answer = answer
    assert status(await here.call("GET", "/x", "metered")) in (502, 503)
    await settled(here)
    [event] = await usage(here)
    assert event["billable"] is False
    assert (await counters(here, "metered", "GET", "/x")).used == (0,)


async def test_a_request_without_a_refund_is_charged(here: Stage) -> None:
    here.upstream.answer = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
    await here.call("GET", "/x", "metered")
    await settled(here)
    assert [event["billable"] for event in await usage(here)] == [True]
    assert (await counters(here, "metered", "GET", "/x")).used == (1,)


async def test_a_pack_applies_to_the_next_request_and_a_refusal_offers_it(
    here: Stage, valkey_url: str
) -> None:
    for _ in range(10):
        assert status(await here.call("GET", "/x", "metered")) == 200
    refused = await here.call("GET", "/x", "metered")
    steps = problem(refused)["how_to_fix"]
    assert {
        "action": "buy_pack", "pack": "boost", "units": 5, "price": "5.00 USD",
        "href": "https://example.com/packs/boost",
    } in steps  # fmt: skip
    pack: Pack = here.app.gate.book.packs["boost"]
    account: Account = here.app.gate.book.accounts["metered"]
    with Admin(valkey_url, "qs") as admin:
        first = admin.grant(account, pack, "order-1")
        again = admin.grant(account, pack, "order-1")
    assert (first.new, again.new, first.expires_us) == (True, False, again.expires_us)
    answers = [await here.call("GET", "/x", "metered") for _ in range(6)]
    assert [status(answer) for answer in answers] == [200] * 5 + [429]
    assert b'RateLimit: "monthly";r=4;t=' in answers[0]
    events = await usage(here)
    assert [event["overage"]["requests"] for event in events] == [0] * 15


async def test_a_plan_in_shadow_mode_refuses_nothing_and_reports_what_it_would_refuse(
    here: Stage,
) -> None:
    answers = [await here.call("GET", "/x", "shadowed") for _ in range(13)]
    assert {status(answer) for answer in answers} == {200}
    assert b"RateLimit" not in answers[0]
    await settled(here)
    sample = here.app.metrics.registry.get_sample_value
    labels = {"plan": "shadowed", "limit": "monthly"}
    assert sample("sidecar_shadow_refusals_total", labels) == 3
    assert (await counters(here, "shadowed", "GET", "/x")).used == (13,)
    events = await usage(here)
    assert [(event["overage"], event["reason"]) for event in events] == [
        ({"requests": 0}, "ok")
    ] * 13
