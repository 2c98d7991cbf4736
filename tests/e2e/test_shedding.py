"""Shedding over real sockets: the order of classes, its cost, and the end of each request."""

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
    """Start a sidecar with a deferrable route, and one whose cost is in the request's body."""
    alone = {"shed": "4", "account_connections_percent": "100", "refusal_events": True}
    here = await stage(**{**alone, **settings})
    text = here.plans.read_text()
    text = text.replace("meters: {requests: {unit: request}}",
                        f"meters:\n  requests: {{unit: request}}\n{CREDITS}")  # fmt: skip
    text = text.replace("routes:\n", f"routes:{CLASSES}", 1)
    text = text.replace("    limits:\n", f"    limits:\n{LIMIT}", 1)
    here.plans.write_text(text)
    assert await here.app.keeper.reload(), here.app.keeper.status()
    return here


@asynccontextmanager
async def in_flight(
    here: Stage, api: SlowApi, *paths: str, key: str = "acme"
) -> AsyncIterator[list[asyncio.Task[bytes]]]:
    """Keep requests in flight at the API until the block ends."""
    before = api.arrived
    requests = [asyncio.ensure_future(here.call("GET", path, key=key)) for path in paths]
    await until(lambda: api.arrived == before + len(paths))
    yield requests
    api.release.set()
    for answer in await asyncio.gather(*requests):
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
    async with in_flight(here, slow_api, "/a", "/b"):
        shed = await here.call("POST", "/export")
        assert (status(shed), problem(shed)["class"]) == (503, "deferrable")
        async with in_flight(here, slow_api, "/c", "/d"):
            shed = await here.call("GET", "/e")
            assert (status(shed), problem(shed)["class"]) == (503, "standard")
            assert (
                metric(here, "sidecar_inflight_requests")
                == metric(here, "sidecar_inflight_limit")
                == 4
            )
            async with in_flight(here, slow_api, "/status", "/status"):
                assert metric(here, "sidecar_inflight_requests") == 6
    assert metric(here, "sidecar_shed_total", **{"class": "deferrable"}) == 1
    assert metric(here, "sidecar_shed_total", **{"class": "standard"}) == 1
    assert here.app.shedder.in_flight == here.app.shedder.waiting == 0
    assert status(await here.call("POST", "/export")) == 200


@pytest.mark.parametrize(
    ("paths", "counted"), [(["/a"] * 9, 9), (["/status"] * 30, 30)], ids=["standard", "critical"]
)
async def test_I3_one_account_has_a_share_of_a_fixed_limit(
    stage: StartStage, slow_api: SlowApi, paths: list[str], counted: int
) -> None:
    here = await a_stage(stage, upstream=url(slow_api), shed="20", account_connections_percent="50")
    async with in_flight(here, slow_api, *paths):
        assert metric(here, "sidecar_inflight_requests") == counted
        if "/a" in paths:
            shed = problem(await here.call("GET", "/e"))
            assert (shed["status"], shed["title"]) == (503, "The API is overloaded")
            assert str(shed["detail"]).startswith("This account has its share of the requests")
            assert shed["how_to_fix"][0]["action"] == "wait"
        async with in_flight(here, slow_api, "/b", "/c", "/d", key="lena"):
            pass
    assert status(await here.call("GET", "/e")) == 200
    assert here.app.shedder.in_flight == 0


async def test_I10_the_refusal_names_the_api_and_has_retry_after(
    stage: StartStage, slow_api: SlowApi, capsys: pytest.CaptureFixture[str]
) -> None:
    here = await a_stage(stage, upstream=url(slow_api), shed="1")
    async with in_flight(here, slow_api, "/a"):
        answers = [await here.call("GET", "/b") for _ in range(30)]
        text = await here.call("GET", "/b", Accept="text/plain")
    document = problem(answers[0])
    assert (
        document["type"]
        == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    )
    assert "not about your quota" in document["detail"]
    assert {"GET /status", "POST /login"} <= set(document["still_available"])
    waits = {int(re.search(rb"Retry-After: (\d+)\r\n", one)[1]) for one in answers}  # type: ignore[index]
    assert len(waits) > 1  # so that clients do not retry together
    assert waits <= set(range(1, 64))
    assert b"Cache-Control: no-store" in answers[0]
    assert b"RateLimit" not in answers[0]
    assert b"Wait " in text and b"overloaded" in text
    assert capsys.readouterr().out.count("shedding_started") == 1


async def test_I2_I4_a_shed_request_costs_nothing_and_has_no_usage_event(
    stage: StartStage, slow_api: SlowApi, valkey_url: str
) -> None:
    here = await a_stage(stage, upstream=url(slow_api))
    client = redis.Redis.from_url(valkey_url)
    async with in_flight(here, slow_api, "/a", "/b", "/c", "/d"):
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


async def test_the_body_of_a_shed_request_is_not_requested_even_for_its_cost(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(stage, upstream=url(slow_api))
    head = (
        b"POST /chat HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Type: application/json\r\n"
        b"Content-Length: 14\r\nExpect: 100-continue\r\n\r\n"
    )
    async with in_flight(here, slow_api, "/a", "/b", "/c", "/d"):
        assert status(await here.raw(head)) == 503  # without a 100 before it
    assert (await here.raw(head)).startswith(b"HTTP/1.1 100 ")


# Each way in which a request ends


async def client_leaves(here: Stage) -> None:
    here.upstream.hold = True
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
    await until(lambda: here.upstream.received)
    writer.transport.abort()


async def broken_response(here: Stage) -> None:
    here.upstream.answer = b"nonsense\r\n\r\n"
    assert status(await here.call("GET", "/x")) == 502


async def api_error(here: Stage) -> None:
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


async def internal_error(here: Stage) -> None:
    handler = here.app.data_port._handler
    object.__setattr__(handler.options, "trusts", None)
    assert status(await here.call("GET", "/x")) == 500


async def internal_error_in_the_gate(here: Stage) -> None:
    def fails(_decision: object) -> None:
        raise RuntimeError

    here.app.gate._recorder.on_decision = fails
    assert status(await here.call("GET", "/x")) == 500


async def refused_by_a_limit(here: Stage) -> None:
    while status(await here.call("GET", "/x")) == 200:
        pass


async def no_store(here: Stage) -> None:
    await here.app.wire.stop()
    assert status(await here.call("GET", "/x")) == 503


async def client_leaves_during_admission(here: Stage) -> None:
    async def never(*_args: object, **_options: object) -> None:
        await asyncio.Event().wait()

    here.app.store.reserve = never  # type: ignore[method-assign, assignment]
    _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
    await until(lambda: here.app.shedder.in_flight)
    writer.transport.abort()


replaced = pytest.mark.skipif(is_compiled(), reason="compiled methods cannot be replaced")


@pytest.mark.parametrize("shed", ["2", "adaptive", "off"])
@pytest.mark.parametrize(
    "end",
    [client_leaves, broken_response, api_error, silent_api, body_too_large, internal_error,
     internal_error_in_the_gate, refused_by_a_limit, no_store,
     pytest.param(client_leaves_during_admission, marks=replaced)],
)  # fmt: skip
async def test_every_request_leaves_however_it_ends(
    stage: StartStage, end: Callable[[Stage], Any], shed: str
) -> None:
    here = await stage(shed=shed, quota=2, response_timeout_s="0.5", max_body_bytes="100")
    await end(here)
    await until(lambda: here.app.shedder.in_flight == 0)
    assert here.app.shedder.waiting == 0


async def test_a_streaming_response_is_in_flight_and_not_slow(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(stage, upstream=url(slow_api), shed="adaptive")
    async with in_flight(here, slow_api, "/a", "/b"):
        await until(lambda: here.app.shedder.waiting == 0)
        assert metric(here, "sidecar_inflight_requests") == 2
        assert metric(here, "sidecar_inflight_limit") == 0


async def test_waiting_for_a_connection_does_not_count_as_response_time(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(
        stage, upstream=url(slow_api), shed="adaptive", upstream_connections="1",
        critical_connections="0", connect_timeout_s="0.5",
    )  # fmt: skip
    slow_api.release.set()
    for _ in range(40):  # until the route has a baseline
        assert status(await here.call("GET", "/x")) == 200
    slow_api.release.clear()
    pool, adaptive = here.app.data_port._pool, here.app.shedder.adaptive
    assert adaptive is not None
    async with in_flight(here, slow_api, "/first"):
        await until(lambda: here.app.shedder.waiting == 0)  # its response has begun
        window = adaptive._window
        before = window.responses, window.drops
        _, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
        await until(lambda: pool.waiting)
        writer.transport.abort()
        await until(lambda: not pool.waiting)
        assert status(await here.call("GET", "/x")) == 503
        assert adaptive._window is window
        assert (window.responses, window.drops) == before


async def test_I3_critical_requests_get_a_connection_first_and_deferrable_ones_last(
    stage: StartStage, slow_api: SlowApi
) -> None:
    here = await a_stage(
        stage, upstream=url(slow_api), shed="off", upstream_connections="1",
        critical_connections="0", connect_timeout_s="30",
    )  # fmt: skip
    pool = here.app.data_port._pool
    order: list[str] = []

    async def send(method: str, path: str) -> None:
        assert status(await here.call(method, path)) == 200
        order.append(path)

    async with in_flight(here, slow_api, "/first"):
        waiting = []
        for method, path in (("POST", "/export"), ("GET", "/items"), ("GET", "/status")):
            already = pool.waiting
            waiting.append(asyncio.ensure_future(send(method, path)))
            await until(lambda already=already: pool.waiting == already + 1)  # type: ignore[misc]
    await asyncio.gather(*waiting)
    assert order == ["/status", "/items", "/export"]
