"""Allowed requests whose gateway never reports: settled as those of a sidecar that died."""

import asyncio

import pytest

from tests.decide.conftest import StartDecide
from tests.support.decide_stage import requests
from tests.support.stage import Stage

RELEASE = {"    features: [core]\n": "    features: [core]\n    when_sidecar_dies: release\n"}


def unsettled(here: Stage, reason: str) -> float | None:
    return here.app.metrics.registry.get_sample_value(
        "sidecar_decide_unsettled_total", {"reason": reason}
    )


def time_out(here: Stage) -> None:
    """Let the time of all open decisions pass."""
    assert here.app.decide is not None
    here.app.decide.decisions.sweep(asyncio.get_running_loop().time() + 301)


@pytest.mark.parametrize("releases", [False, True])
async def test_an_overdue_decision_costs_what_the_plan_says_of_dead_sidecars(
    decide: StartDecide, releases: bool
) -> None:
    here, gateway = await decide(plans=RELEASE if releases else None)
    decision = await gateway.decide("GET", "/items")
    time_out(here)
    async with asyncio.timeout(10):
        while not (events := await requests(here)):
            await asyncio.sleep(0.01)
    [event] = events
    assert (event["data"]["reason"], event["data"]["status"]) == ("unsettled", 0)
    assert event["data"]["billable"] is not releases
    assert unsettled(here, "timed-out") == 1
    assert (await gateway.settle(decision)).status == 404
    assert len(await requests(here)) == 1
    left = await gateway.decide("GET", "/items")
    assert left["left"]["remaining"] == (999 if releases else 998)


async def test_beyond_the_bound_the_oldest_decision_is_settled(decide: StartDecide) -> None:
    here, gateway = await decide(decide_open=2)
    decisions = [await gateway.decide("GET", f"/{number}") for number in range(3)]
    [event] = await requests(here)
    assert (event["id"], event["data"]["reason"]) == (decisions[0]["request_id"], "unsettled")
    assert unsettled(here, "evicted") == 1
    assert [(await gateway.settle(one)).status for one in decisions] == [404, 200, 200]


async def test_I4_a_sidecar_that_stops_records_its_open_decisions(decide: StartDecide) -> None:
    here, gateway = await decide()
    await gateway.decide("GET", "/items")
    await here.app.stop()
    lines = [path.read_text() for path in sorted(here.spool.glob("*.jsonl"))]
    assert sum(text.count('"reason":"unsettled"') for text in lines) == 1
    assert unsettled(here, "stopped") == 1


async def test_a_draining_sidecar_takes_reports_and_refuses_new_requests(
    decide: StartDecide,
) -> None:
    here, gateway = await decide(drain_timeout_s=30)
    open_one = await gateway.decide("GET", "/items")
    stopping = asyncio.ensure_future(here.app.stop())
    assert here.app.decide is not None
    async with asyncio.timeout(10):
        while not here.app.decide.decisions.closed:
            await asyncio.sleep(0.01)
    fields = {"X_Api_Key": "acme", "X_Original_Method": "GET", "X_Original_URI": "/login"}
    question = {"method": "POST", "path": "/login", "headers": {"X-Api-Key": "acme"}}
    for path in ("decide", "forward-auth", "auth-request"):
        undecided = await gateway.ask(f"/v1/{path}", question, **fields)
        assert (undecided.status, undecided.fields["X-Decide-Error"]) == (503, "503")
    assert (await gateway.settle(open_one)).status == 200
    await stopping
    assert unsettled(here, "stopped") == 0
