"""Interim responses (100, 103) and trailers, as curl and raw clients see them."""

import asyncio
from pathlib import Path

import pytest

from tests.support.http.curl import curl
from tests.support.http.raw_ends import Ends, calls
from tests.support.stage import Stage, StartStage

WAITS = ("-H", "Expect: 100-continue", "--expect100-timeout", "25")
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n"
END = b"0\r\nX-Sum: abc\r\nSet-Cookie: no=1\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def here(stage: StartStage, ends: Ends) -> Stage:
    return await stage(upstream=ends.url)


@pytest.fixture
def url(here: Stage) -> str:
    return f"http://127.0.0.1:{here.app.data_port.port}/x"


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    made = tmp_path / "upload"
    made.write_bytes(b"u" * 100_000)
    return made


async def test_curl_sends_the_body_after_100_continue_once_the_request_is_admitted(
    url: str, ends: Ends, upload: Path
) -> None:
    running = asyncio.ensure_future(curl(url, *WAITS, "-T", upload, "-i"))
    upstream = await ends.upstream()
    head = await upstream.head()
    assert b"\r\nExpect: 100-continue\r\n" in head
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await upstream.get(b"u" * 100_000)
    await upstream.send(HELLO)
    done = await running
    assert (done.status, done.uploaded) == (200, 100_000)
    assert done.output.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


UPLOAD = (
    b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 4\r\n"
    b"Expect: 100-continue\r\n\r\n"
)


async def test_expect_100_before_the_api_can_refuse_by_the_head_alone(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url, expect_timeout_s="600")
    client = await ends.client(here)
    await client.send(UPLOAD)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
    answer = await client.answer()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert await upstream.rest() == b""
    client.close()
    (event,) = await calls(here)
    assert (event["status"], event["bytes_in"]) == (413, 0)


async def test_I9_an_api_that_ignores_the_expectation_gets_the_body(
    stage: StartStage, ends: Ends
) -> None:
    here = await stage(upstream=ends.url, expect_timeout_s="0.2")
    client = await ends.client(here)
    await client.send(UPLOAD)
    upstream = await ends.upstream()
    await upstream.head()
    await client.get(b"HTTP/1.1 100 Continue\r\n\r\n")
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")  # late: not relayed again
    await client.send(b"body")
    await upstream.get(b"body")
    await upstream.send(HELLO)
    assert (await client.answer()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_client_need_not_wait_for_100_continue(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url, expect_timeout_s="600")
    client = await ends.client(here)
    await client.send(UPLOAD)
    upstream = await ends.upstream()
    await upstream.head()
    await client.send(b"bo")
    await upstream.get(b"bo")
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await client.send(b"dy")
    await upstream.get(b"dy")
    await upstream.send(HELLO)
    assert (await client.answer()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_100_without_an_expectation_is_not_relayed(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await client.send(UPLOAD.replace(b"Expect: 100-continue\r\n", b"") + b"body")
    upstream = await ends.upstream()
    assert b"Expect" not in await upstream.head()
    await upstream.get(b"body")
    await upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    await upstream.send(HELLO)
    assert (await client.answer()).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_refused_body_that_waits_for_100_continue_is_never_sent(
    stage: StartStage, ends: Ends, upload: Path
) -> None:
    here = await stage(upstream=ends.url, quota=1)
    spending = asyncio.ensure_future(here.call("GET", "/x"))
    upstream = await ends.upstream()
    await upstream.send(HELLO)
    await spending
    url = f"http://127.0.0.1:{here.app.data_port.port}"
    for path, key, status in (("/x", "nobody", 401), ("/bulk/1", "acme", 403), ("/x", "acme", 429)):
        done = await curl(url + path, *WAITS, "-T", upload, "-i", key=key)
        assert (done.status, done.uploaded) == (status, 0)
        assert b"100 Continue" not in done.output
    assert ends.unanswered == 0


async def test_early_hints_reach_curl_before_the_response(url: str, ends: Ends) -> None:
    running = asyncio.ensure_future(curl(url, "-i"))
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(HINTS)
    await upstream.send(HELLO)
    done = await running
    assert done.output.startswith(HINTS + b"HTTP/1.1 200 OK\r\n")
    assert done.output.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "not asked for"])
async def test_trailers_without_te_reach_a_client_as_those_that_it_asks_for(
    here: Stage, url: str, ends: Ends, tmp_path: Path, asked: bool
) -> None:
    heads = tmp_path / "heads"
    wish = ("-H", "TE: trailers", "-H", "Connection: TE") if asked else ()
    running = asyncio.ensure_future(curl(url, "-D", heads, *wish))
    upstream = await ends.upstream()
    head = await upstream.head()
    assert (b"\r\nConnection: TE\r\nTE: trailers\r\n" in head) == asked
    await upstream.send(CHUNKED + END)
    assert (await running).output == b"hello"
    shown = await asyncio.to_thread(heads.read_text)
    assert "X-Sum: abc" in shown
    assert "no=1" not in shown
    (event,) = await calls(here)
    assert event["bytes_out"] == 5


async def test_trailers_of_a_request_reach_the_api(here: Stage, ends: Ends) -> None:
    client = await ends.client(here)
    await client.send(
        b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Sum: abc\r\nX-Api-Key: other\r\nX-Account-Id: boss\r\n\r\n"
    )
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n")
    await upstream.send(HELLO)
    assert (await client.answer()).endswith(b"hello")
