"""aiohttp's client against a real ASGI API through the sidecar."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.http.asgi_api import GZIPPED, PATIENCE_S, TEXT, digest
from tests.support.http.raw_ends import calls
from tests.support.stage import Stage


@pytest.fixture
async def client(base: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        base,
        headers={"X-Api-Key": "acme"},
        timeout=aiohttp.ClientTimeout(PATIENCE_S),
        cookie_jar=aiohttp.CookieJar(unsafe=True),  # accept cookies of an IP address
        auto_decompress=False,
    ) as made:
        yield made


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_I6_every_method_arrives_with_its_json(
    client: aiohttp.ClientSession, method: str
) -> None:
    async with client.request(method, "/echo/x?q=%20", json={"numbers": [1, 2]}) as answer:
        echo = await answer.json()
    assert (echo["method"], echo["target"], echo["query"]) == (method, "/echo/x", "q=%20")
    assert (echo["size"], echo["sha256"]) == (19, digest(b'{"numbers": [1, 2]}'))
    assert ["content-type", "application/json"] in echo["headers"]


async def test_I6_a_form_and_a_chunked_multipart_upload_arrive(
    client: aiohttp.ClientSession,
) -> None:
    async with client.post("/form", data={"a": "two words", "b": "ü&="}) as answer:
        assert await answer.json() == [["a", "two words"], ["b", "ü&="]]
    data = secrets.token_bytes(300_000)
    form = aiohttp.FormData()
    form.add_field("note", "hi")
    form.add_field("up", data, filename="a.bin", content_type="application/x-thing")
    async with client.post("/multipart", data=form, chunked=True) as answer:
        assert await answer.json() == [
            ["note", None, "text/plain", digest(b"hi")],
            ["up", "a.bin", "application/x-thing", digest(data)],
        ]


async def test_I6_bytes_pass_in_both_directions_at_once(
    client: aiohttp.ClientSession, front: Stage
) -> None:
    pieces = [secrets.token_bytes(size) for size in (1, 1_000, 60_000, 5)]
    returned: asyncio.Queue[bytes] = asyncio.Queue()

    async def each_when_the_last_is_back() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            async with asyncio.timeout(PATIENCE_S):
                assert await returned.get() == piece

    async with client.post("/duplex/", data=each_when_the_last_is_back()) as answer:
        for piece in pieces:
            returned.put_nowait(await answer.content.readexactly(len(piece)))
        assert await answer.content.read() == b""
    (event,) = await calls(front)
    size = sum(map(len, pieces))
    assert (event["bytes_in"], event["bytes_out"], event["reason"]) == (size, size, "ok")


async def test_I6_gzip_arrives_as_it_was_sent(client: aiohttp.ClientSession) -> None:
    async with client.get("/gzip") as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == GZIPPED


async def test_I6_each_cookie_arrives_and_comes_back(client: aiohttp.ClientSession) -> None:
    async with client.get("/cookies") as answer:
        assert len(answer.headers.getall("Set-Cookie")) == 3
    async with client.get("/cookies") as answer:
        assert await answer.json() == {"session": "s1", "theme": "dark", "last": "a,b; c"}


@pytest.mark.parametrize(("code", "method"), [(301, "GET"), (303, "GET"), (308, "POST")])
async def test_redirects_are_followed(
    client: aiohttp.ClientSession, code: int, method: str
) -> None:
    async with client.post(f"/redirect/{code}", data=b"body") as answer:
        echo = await answer.json()
    assert [step.status for step in answer.history] == [code]
    assert (echo["method"], echo["target"]) == (method, "/echo/redirected")


async def test_responses_without_a_body_keep_the_connection_in_sync(
    client: aiohttp.ClientSession, front: Stage
) -> None:
    for method, path in (("HEAD", "/file"), ("GET", "/status/204"), ("GET", "/status/304")):
        async with client.request(method, path) as answer:
            assert await answer.read() == b""
        async with client.get("/echo/next") as answer:
            assert (await answer.json())["target"] == "/echo/next"
    assert (front.app.data_port.connections, front.app.data_port._pool.size) == (1, 1)


async def test_ranges_are_forwarded(client: aiohttp.ClientSession) -> None:
    async with client.get("/file", headers={"Range": "bytes=7-9"}) as answer:
        assert (answer.status, await answer.read()) == (206, TEXT[7:10])
        assert answer.headers["Content-Range"] == f"bytes 7-9/{len(TEXT)}"


async def test_fifty_concurrent_requests_get_their_own_responses(
    client: aiohttp.ClientSession, front: Stage
) -> None:
    name = secrets.token_hex(8)

    async def ask(number: int) -> str:
        async with client.get(f"/together/{name}/50?n={number}") as answer:
            echo: dict[str, str] = await answer.json()
            return echo["query"]

    answers = await asyncio.gather(*map(ask, range(50)))
    assert answers == [f"n={number}" for number in range(50)]
    assert [event["status"] for event in await calls(front)] == [200] * 50
