"""Shedding over real sockets: who is refused at a fixed limit, what it costs, when it is over."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from sidecar.commands.serve import is_compiled
from tests.support.processes import SlowApi, until
from tests.support.stage import Stage, StartStage, problem, status

CLASSES = """
  - {id: export, match: "POST /export", class: deferrable}
  - {id: chat, match: "POST /chat", cost: {credits: reserve}}
"""
LIMIT = "      - {id: credits, meter: credits, quota: 1000/month}\n"
CREDITS = "  credits: {unit: credit, reserve: {json: credits, default: 1}}\n"


async def a_stage(stage: StartStage, **settings: Any) -> Stage:
    """With a deferrable route, and one whose cost the request's body tells."""
    here = await stage(**{"shed": "4", "refusal_events": True, **settings})
    text = here.plans.read_text()
    text = text.replace("meters: {requests: {unit: request}}",
                        f"meters:\n  requests: {{unit: request}}\n{CREDITS}")  # fmt: skip
    text = text.replace("routes:\n", f"routes:{CLASSES}", 1)
    text = text.replace("    limits:\n", f"    limits:\n{LIMIT}", 1)
    here.plans.write_text(text)
    assert await here.app.keeper.reload(), here.app.keeper.status()
    return here


@asynccontextmanager
async def held(here: Stage, api: SlowApi, *paths: str) -> AsyncIterator[list[asyncio.Task[bytes]]]:
    """Calls that are in flight at the API, until it is told to go on."""
    before = api.arrived
    calls = [asyncio.ensure_future(here.call("GET", path)) for path in paths]
    await until(lambda: api.arrived == before + len(paths))
    yield calls
    api.release.set()
    for answer in await asyncio.gather(*calls):
        assert status(answer) == 200


def url(api: SlowApi) -> str:
    return f"http://127.0.0.1:{api.port}"


def metric(here: Stage, name: str, **labels: str) -> float:
    value = here.app.metrics.registry.get_sample_value(name, labels)
    assert value is not None
    return value


async def test_I3_deferrable_is_shed_first_then_standard_and_critical_never(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(stage, upstream=url(slow_api))
    async with held(here, slow_api, "/a", "/b"):
        shed = await here.call("POST", "/export")
        assert (status(shed), problem(shed)["class"]) == (503, "deferrable")
        async with held(here, slow_api, "/c", "/d"):
            shed = await here.call("GET", "/e")
            assert (status(shed), problem(shed)["class"]) == (503, "standard")
            assert (
                metric(here, "sidecar_inflight_requests")
                == metric(here, "sidecar_inflight_limit")
                == 4
            )
            async with held(here, slow_api, "/status", "/status"):
                assert metric(here, "sidecar_inflight_requests") == 6
    assert metric(here, "sidecar_shed_total", **{"class": "deferrable"}) == 1
    assert metric(here, "sidecar_shed_total", **{"class": "standard"}) == 1
    assert here.app.shedder.in_flight == here.app.shedder.waiting == 0
    assert status(await here.call("POST", "/export")) == 200


async def test_I10_the_refusal_says_that_it_is_the_api_and_when_to_come_back(
    stage: StartStage, slow_api: SlowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    here = await a_stage(stage, upstream=url(slow_api), shed="1")
    async with held(here, slow_api, "/a"):
        answers = [await here.call("GET", "/b") for _ in range(30)]
        text = await here.call("GET", "/b", Accept="text/plain")
    told = problem(answers[0])
    assert (
        told["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    )
    assert "not about your quota" in told["detail"]
    assert {"GET /status", "POST /login"} <= set(told["still_available"])
    waits = {int(re.search(rb"Retry-After: (\d+)\r\n", one)[1]) for one in answers}  # type: ignore[index]
    assert len(waits) > 1  # they do not all come back together
    assert waits <= set(range(1, 64))
    assert b"Cache-Control: no-store" in answers[0]
    assert b"RateLimit" not in answers[0]
    assert b"Wait " in text and b"overloaded" in text
    assert capsys.readouterr().out.count("shedding_started") == 1


async def test_I2_I4_a_shed_call_costs_nothing_and_is_no_event_of_usage(
    stage: StartStage, slow_api: SlowApi, valkey_url: str
) -> None:
    here = await a_stage(stage, upstream=url(slow_api))
    client = redis.Redis.from_url(valkey_url)
    async with held(here, slow_api, "/a", "/b", "/c", "/d"):
        before = {key: client.dump(key) for key in client.keys("*acme*")}
        assert before
        for _ in range(5):
            assert status(await here.call("GET", "/e")) == 503
            assert status(await here.call("POST", "/export")) == 503
        assert {key: client.dump(key) for key in client.keys("*acme*")} == before
    client.close()
    events = await here.events()
    kinds = [(event["type"], event["data"]["reason"]) for event in events]
    assert kinds.count(("api.refusal.v1", "shed")) == 10
    assert kinds.count(("api.request.v1", "ok")) == 4


async def test_a_shed_upload_is_not_asked_for_not_even_to_learn_its_cost(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(stage, upstream=url(slow_api))
    head = (
        b"POST /chat HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Type: application/json\r\n"
        b"Content-Length: 14\r\nExpect: 100-continue\r\n\r\n"
    )
    async with held(here, slow_api, "/a", "/b", "/c", "/d"):
        assert status(await here.raw(head)) == 503  # and no 100 in front of it
    assert (await here.raw(head)).startswith(b"HTTP/1.1 100 ")


# Every way out gives the place back


async def client_gone(here: Stage) -> None:
    here.upstream.hold = True
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
    await until(lambda: here.upstream.received)
    writer.transport.abort()


async def broken_answer(here: Stage) -> None:
    here.upstream.answer = b"nonsense\r\n\r\n"
    assert status(await here.call("GET", "/x")) == 502


async def error_of_the_api(here: Stage) -> None:
    here.upstream.answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
    assert status(await here.call("GET", "/x")) == 503


async def silent_api(here: Stage) -> None:
    here.upstream.hold = True
    assert status(await here.call("GET", "/x")) == 504


async def body_too_large(here: Stage) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(head)
    await until(lambda: here.app.shedder.in_flight)
    writer.write(b"c8\r\n" + b"x" * 200 + b"\r\n")
    await until(lambda: not here.app.shedder.in_flight)
    writer.close()


async def unforeseen(here: Stage) -> None:
    handler = here.app.data_port._handler
    object.__setattr__(handler.options, "trusts", None)
    assert status(await here.call("GET", "/x")) == 500


async def unforeseen_in_the_gate(here: Stage) -> None:
    def fails(_seen: object) -> None:
        raise RuntimeError

    here.app.gate._telling.on_decision = fails
    assert status(await here.call("GET", "/x")) == 500


async def refused_by_a_limit(here: Stage) -> None:
    while status(await here.call("GET", "/x")) == 200:
        pass


async def no_store(here: Stage) -> None:
    await here.app.wire.stop()
    assert status(await here.call("GET", "/x")) == 503


async def gone_while_it_is_decided(here: Stage) -> None:
    async def never(*_args: object, **_options: object) -> None:
        await asyncio.Event().wait()

    here.app.store.reserve = never  # type: ignore[method-assign, assignment]
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
    await until(lambda: here.app.shedder.in_flight)
    writer.transport.abort()


replaced = pytest.mark.skipif(is_compiled(), reason="what is compiled cannot be replaced")


@pytest.mark.parametrize("shed", ["2", "adaptive", "off"])
@pytest.mark.parametrize(
    "way_out",
    [client_gone, broken_answer, error_of_the_api, silent_api, body_too_large, unforeseen,
     unforeseen_in_the_gate, refused_by_a_limit, no_store,
     pytest.param(gone_while_it_is_decided, marks=replaced)],
)  # fmt: skip
async def test_a_place_is_given_back_on_every_way_out(
    stage: StartStage, way_out: Callable[[Stage], Any], shed: str
) -> None:
    here = await stage(shed=shed, quota=2, response_timeout_s="0.5", max_body_bytes="100")
    await way_out(here)
    await until(lambda: here.app.shedder.in_flight == 0)
    assert here.app.shedder.waiting == 0


async def test_what_streams_holds_its_place_and_is_no_slow_answer(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(stage, upstream=url(slow_api), shed="adaptive")
    async with held(here, slow_api, "/a", "/b"):
        await until(lambda: here.app.shedder.waiting == 0)
        assert metric(here, "sidecar_inflight_requests") == 2
        assert metric(here, "sidecar_inflight_limit") == 0


async def test_who_waits_for_a_connection_tells_nothing_of_the_api(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(
        stage, upstream=url(slow_api), shed="adaptive", upstream_connections="1",
        critical_connections="0", connect_timeout_s="0.5",
    )  # fmt: skip
    slow_api.release.set()
    for _ in range(40):  # so that it is known how long an answer takes
        assert status(await here.call("GET", "/x")) == 200
    slow_api.release.clear()
    pool, found = here.app.data_port._pool, here.app.shedder.found
    assert found is not None
    async with held(here, slow_api, "/first"):
        await until(lambda: here.app.shedder.waiting == 0)  # its answer has begun
        window = found._window
        before = window.calls, window.drops
        _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
        await until(lambda: pool.waiting)
        writer.transport.abort()
        await until(lambda: not pool.waiting)
        assert status(await here.call("GET", "/x")) == 503
        assert found._window is window
        assert (window.calls, window.drops) == before


async def test_I3_of_who_waits_for_a_connection_critical_goes_first_and_deferrable_last(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(
        stage, upstream=url(slow_api), shed="off", upstream_connections="1",
        critical_connections="0", connect_timeout_s="30",
    )  # fmt: skip
    pool = here.app.data_port._pool
    order: list[str] = []

    async def call(method: str, path: str) -> None:
        assert status(await here.call(method, path)) == 200
        order.append(path)

    async with held(here, slow_api, "/first"):
        waiting = []
        for method, path in (("POST", "/export"), ("GET", "/items"), ("GET", "/status")):
            already = pool.waiting
            waiting.append(asyncio.ensure_future(call(method, path)))
            await until(lambda already=already: pool.waiting == already + 1)  # type: ignore[misc]
    await asyncio.gather(*waiting)
    assert order == ["/status", "/items", "/export"]
