"""Requests that mean something to a proxy: Max-Forwards, TRACE, CONNECT, absolute targets."""

import json

import pytest

from tests.support.http.asgi_api import Api
from tests.support.http.curl import curl
from tests.support.http.raw_ends import Ends, calls, empty
from tests.support.stage import Stage, StartStage, problem, status


@pytest.mark.parametrize(("hops", "left"), [(b"1", b"0"), (b"7", b"6"), (b"007", b"6")])
async def test_options_goes_one_hop_less(
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


async def test_options_that_may_go_no_further_ends_here_and_costs_nothing(front: Stage) -> None:
    answer = await front.call("OPTIONS", "/echo/x", Max_Forwards="0")
    assert status(answer) == 204
    assert b"\r\nAllow: GET, HEAD, POST" in answer
    assert await calls(front) == []


@pytest.mark.parametrize("hops", ["0", "5"])
async def test_I10_trace_is_explained_and_echoes_no_credential(front: Stage, hops: str) -> None:
    answer = await front.call("TRACE", "/echo/x", Max_Forwards=hops, Cookie="s=secret")
    assert status(answer) == problem(answer)["status"] == 405
    assert b"acme" not in answer
    assert b"secret" not in answer
    assert await calls(front) == []


async def test_curl_cannot_make_a_tunnel_of_it(base: str, front: Stage) -> None:
    done = await curl("http://other.test/", "-p", "-x", base, "-w", "\n%{http_connect} 0 0")
    assert (done.status, done.output) == (405, b"")
    await empty(front)
    assert await calls(front) == []


async def test_curl_may_take_it_for_its_proxy(base: str, front: Stage, api: Api) -> None:
    """An absolute target is one for the only API there is; its authority is the Host."""
    done = await curl("http://other.test:81/echo/a?b=c", "-x", base, "-H", "Host: a.test")
    seen = json.loads(done.output)
    assert (seen["target"], seen["query"]) == ("/echo/a", "b=c")
    assert ["host", "other.test:81"] in seen["headers"]
    assert ["x-forwarded-host", "other.test:81"] in seen["headers"]
    assert "proxy-connection" not in dict(seen["headers"])
    (event,) = await calls(front)
    assert event["status"] == 200
