"""httpx against a real ASGI API through the sidecar."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.http.asgi_api import GZIPPED, PATIENCE_S, TEXT, Api, digest
from tests.support.http.raw_ends import calls
from tests.support.processes import until
from tests.support.stage import Stage


@pytest.fixture
async def client(base: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=base, headers={"X-Api-Key": "acme"}, timeout=PATIENCE_S, trust_env=False
    ) as made:
        yield made


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_I6_every_method_arrives_with_its_json(
    client: httpx.AsyncClient, method: str
) -> None:
    request = client.build_request(
        method, "/echo/a%20b/ü?q=1&q=%2F", json={"text": "grüße", "numbers": list(range(3000))}
    )
    answer = await client.send(request)
    echo = answer.json()
    assert answer.status_code == 200
    assert (echo["method"], echo["query"]) == (method, "q=1&q=%2F")
    assert echo["target"] == "/echo/a%20b/%C3%BC"
    assert (echo["size"], echo["sha256"]) == (len(request.content), digest(request.content))
    assert ["content-type", "application/json"] in echo["headers"]


async def test_I6_a_form_and_a_file_upload_arrive(client: httpx.AsyncClient) -> None:
    answer = await client.post("/form", data={"a": ["1", "two words"], "b": "ü&="})
    assert answer.json() == [["a", "1"], ["a", "two words"], ["b", "ü&="]]
    data = secrets.token_bytes(300_000)
    answer = await client.post(
        "/multipart", data={"note": "hi"}, files={"up": ("a b.bin", data, "application/x-thing")}
    )
    assert answer.json() == [
        ["note", None, "text/plain", digest(b"hi")],
        ["up", "a b.bin", "application/x-thing", digest(data)],
    ]


async def test_I6_an_upload_streams_piece_by_piece(
    client: httpx.AsyncClient, front: Stage, api: Api
) -> None:
    name = secrets.token_hex(8)
    piece = secrets.token_bytes(10_000)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(1, 6):
            yield piece
            await until(lambda number=number: api.arrived[name] == number * len(piece))

    answer = await client.post(f"/upload/{name}", content=pieces())
    assert answer.json() == {"size": 50_000, "sha256": digest(piece * 5)}
    (event,) = await calls(front)
    assert event["bytes_in"] == 50_000


async def test_I6_a_download_streams_piece_by_piece(
    client: httpx.AsyncClient, front: Stage, api: Api
) -> None:
    name = secrets.token_hex(8)
    pieces = [secrets.token_bytes(size) for size in (1, 1_000, 60_000)]
    api.drip(name, pieces[0])
    async with client.stream("GET", f"/drip/{name}") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        raw = answer.aiter_raw()
        for piece, following in zip(pieces, [*pieces[1:], b""], strict=True):
            got = b""
            while len(got) < len(piece):
                got += await anext(raw)
            assert got == piece
            api.drip(name, following)
        assert [rest async for rest in raw] == []
    (event,) = await calls(front)
    assert (event["bytes_out"], event["reason"]) == (sum(map(len, pieces)), "ok")


async def test_I6_gzip_arrives_as_it_was_sent(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/gzip") as answer:
        assert b"".join([part async for part in answer.aiter_raw()]) == GZIPPED
    answer = await client.get("/gzip")
    assert (answer.headers["content-encoding"], answer.content) == ("gzip", TEXT)


async def test_I6_each_cookie_arrives_and_comes_back(client: httpx.AsyncClient) -> None:
    answer = await client.get("/cookies")
    assert len(answer.headers.get_list("set-cookie")) == 3
    assert [value.split("=")[0] for value in answer.headers.get_list("set-cookie")] == [
        "session",
        "theme",
        "last",
    ]
    again = await client.get("/cookies")
    assert again.json() == {"session": "s1", "theme": "dark", "last": "a,b; c"}


@pytest.mark.parametrize(("code", "method"), [(302, "GET"), (303, "GET"), (307, "POST")])
async def test_redirects_are_followed(client: httpx.AsyncClient, code: int, method: str) -> None:
    answer = await client.post(f"/redirect/{code}", content=b"body", follow_redirects=True)
    assert [step.status_code for step in answer.history] == [code]
    assert answer.history[0].headers["location"] == "/echo/redirected?from=here"
    assert (answer.json()["method"], answer.json()["size"]) == (method, 4 * (method == "POST"))


async def test_responses_without_a_body_keep_the_connection_in_sync(
    client: httpx.AsyncClient, front: Stage
) -> None:
    for method, path, status in (
        ("HEAD", "/file", 200),
        ("GET", "/status/204", 204),
        ("GET", "/status/304", 304),
        ("HEAD", "/status/404", 404),
        ("DELETE", "/status/204", 204),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.content) == (status, b"")
        if path == "/file":
            assert answer.headers["content-length"] == str(len(TEXT))
        assert (await client.get("/echo/next")).json()["target"] == "/echo/next"
    assert (front.app.data_port.connections, front.app.data_port._pool.size) == (1, 1)


async def test_ranges_are_forwarded(client: httpx.AsyncClient) -> None:
    answer = await client.get("/file", headers={"Range": "bytes=100-199"})
    assert (answer.status_code, answer.content) == (206, TEXT[100:200])
    assert answer.headers["content-range"] == f"bytes 100-199/{len(TEXT)}"
    answer = await client.get("/file", headers={"Range": "bytes=-5"})
    assert (answer.status_code, answer.content) == (206, TEXT[-5:])
    answer = await client.get("/file", headers={"Range": f"bytes={len(TEXT)}-"})
    assert answer.status_code == 416


async def test_fifty_concurrent_requests_get_their_own_responses(
    client: httpx.AsyncClient, front: Stage
) -> None:
    name = secrets.token_hex(8)
    answers = await asyncio.gather(
        *(client.get(f"/together/{name}/50?n={number}") for number in range(50))
    )
    assert [answer.json()["query"] for answer in answers] == [f"n={n}" for n in range(50)]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 50
    assert [event["status"] for event in await calls(front)] == [200] * 50
