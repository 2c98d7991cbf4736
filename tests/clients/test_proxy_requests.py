"""Requests that mean something to a proxy: Max-Forwards, TRACE, CONNECT, absolute targets."""

import json

import pytest

from tests.support.http.asgi_api import Api
from tests.support.http.curl import curl
from tests.support.http.raw_ends import Ends, calls, empty
from tests.support.stage import Stage, StartStage, problem, status


@pytest.mark.parametrize(("hops", "left"), [(b"1", b"0"), (b"7", b"6"), (b"007", b"6")])
async def test_options_is_forwarded_with_max_forwards_less_one(
    stage: StartStage, ends: Ends, hops: bytes, left: bytes
) -> None:
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(
        b"OPTIONS /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nMax-Forwards: %b\r\n\r\n" % hops
    )
    upstream = await ends.upstream()
    head = await upstream.head()
    assert head.startswith(b"OPTIONS /x HTTP/1.1\r\n")
    assert b"\r\nMax-Forwards: %b\r\n" % left in head
    await upstream.send(b"HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n")
    assert b"\r\nAllow: GET\r\n" in await client.head()


async def test_options_with_max_forwards_0_is_answered_by_the_sidecar_and_costs_nothing(
    front: Stage,
) -> None:
    answer = await front.call("OPTIONS", "/echo/x", Max_Forwards="0")
    assert status(answer) == 204
    assert b"\r\nAllow: GET, HEAD, POST" in answer
    assert b"\r\nDate: " in answer
    assert b"\r\nX-Request-Id: " in answer
    assert b"\r\nContent-" not in answer
    assert await calls(front) == []


@pytest.mark.parametrize("hops", ["0", "5"])
async def test_I10_trace_is_refused_and_echoes_no_credential(front: Stage, hops: str) -> None:
    answer = await front.call("TRACE", "/echo/x", Max_Forwards=hops, Cookie="s=secret")
    assert status(answer) == problem(answer)["status"] == 405
    assert b"acme" not in answer
    assert b"secret" not in answer
    assert await calls(front) == []


async def test_curl_cannot_open_a_connect_tunnel(base: str, front: Stage) -> None:
    done = await curl("http://other.test/", "-p", "-x", base, "-w", "\n%{http_connect} 0 0")
    assert (done.status, done.output) == (405, b"")
    await empty(front)
    assert await calls(front) == []


async def test_curl_can_use_the_sidecar_as_its_proxy(base: str, front: Stage, api: Api) -> None:
    """An absolute target is forwarded to the API; its authority becomes Host."""
    done = await curl("http://other.test:81/echo/a?b=c", "-x", base, "-H", "Host: a.test")
    echo = json.loads(done.output)
    assert (echo["target"], echo["query"]) == ("/echo/a", "b=c")
    assert ["host", "other.test:81"] in echo["headers"]
    assert ["x-forwarded-host", "other.test:81"] in echo["headers"]
    assert "proxy-connection" not in dict(echo["headers"])
    (event,) = await calls(front)
    assert event["status"] == 200
