"""Early responses to uploads, of the API and of the sidecar, reach the client."""

import contextlib
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import httpx
import pytest

from tests.support.http.asgi_api import PATIENCE_S
from tests.support.http.curl import curl
from tests.support.http.raw_ends import Ends, calls, empty
from tests.support.stage import Stage, StartStage, status

SIZE = 8_000_000
SAID = b"too large for this API"
ANSWER = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: %d\r\n\r\n%b" % (len(SAID), SAID)
HEAD = b"POST /up HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: %d\r\n\r\n" % SIZE


async def by_curl(url: str, key: str, file: Path) -> tuple[int, str]:
    done = await curl(url, "--data-binary", f"@{file}", "-H", "Expect:", key=key)
    return done.status, done.output.decode()


async def by_httpx(url: str, key: str, _file: Path) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client:
        answer = await client.post(url, headers={"X-Api-Key": key}, content=bytes(SIZE))
    return answer.status_code, answer.text


async def by_aiohttp(url: str, key: str, _file: Path) -> tuple[int, str]:
    body = io.BytesIO(bytes(SIZE))
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S)) as client,
        client.post(url, headers={"X-Api-Key": key}, data=body) as answer,
    ):
        return answer.status, await answer.text()


CLIENTS = pytest.mark.parametrize("ask", [by_curl, by_httpx, by_aiohttp])
Ask = Callable[[str, str, Path], Awaitable[tuple[int, str]]]


class RudeApi:
    """Answers 413 after a part of the body, and closes at once, with a reset of the unread rest."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="rude api", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(PATIENCE_S)
                    left = SIZE // 16
                    while left > 0:
                        left -= len(connection.recv(65_536)) or left
                    connection.sendall(ANSWER)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()


@pytest.fixture
def rude() -> Iterator[RudeApi]:
    api = RudeApi()
    yield api
    api.stop()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "upload"
    made.write_bytes(bytes(SIZE))
    return made


@CLIENTS
async def test_the_response_of_an_api_that_does_not_read_arrives(
    base: str, front: Stage, file: Path, ask: Ask
) -> None:
    code, text = await ask(f"{base}/too-large", "acme", file)
    assert (code, text) == (413, '{"error":"too large for this API"}')
    await empty(front)
    (event,) = await calls(front)
    assert (event["status"], event["reason"]) == (413, "ok")


@CLIENTS
async def test_the_response_of_an_api_that_closes_during_an_upload_arrives(
    stage: StartStage, rude: RudeApi, file: Path, ask: Ask
) -> None:
    here = await stage(upstream=rude.url)
    url = f"http://127.0.0.1:{here.app.data_port.port}/up"
    for _ in range(5):
        assert await ask(url, "acme", file) == (413, SAID.decode())
    await empty(here)
    assert [event["status"] for event in await calls(here)] == [413] * 5


@CLIENTS
async def test_I10_a_refusal_during_an_upload_arrives(
    base: str, front: Stage, file: Path, ask: Ask
) -> None:
    code, text = await ask(f"{base}/upload/refused", "nobody", file)
    assert (code, '"how_to_fix"' in text) == (401, True)
    assert await calls(front) == []


async def test_a_response_before_the_body_arrives_at_once(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(HEAD)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.send(ANSWER)
    answer = await client.answer()
    assert (status(answer), answer.endswith(SAID)) == (413, True)
    assert b"\r\nConnection: close\r\n" in answer  # the body may follow or not
    assert await client.rest() == b""
    client.close()
    await upstream.rest()
    await empty(here)
    (event,) = await calls(here)
    assert (event["status"], event["reason"], event["bytes_in"]) == (413, "ok", 0)


async def test_a_started_response_does_not_wait_for_the_body(stage: StartStage, ends: Ends) -> None:
    here = await stage(upstream=ends.url)
    client = await ends.client(here)
    await client.send(HEAD + b"x" * 1000)
    upstream = await ends.upstream()
    await upstream.head()
    await upstream.get(b"x" * 1000)
    await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nfirst ")
    assert status(await client.head()) == 200
    await client.get(b"first ")
    await client.send(b"y" * 1000)
    await upstream.get(b"y" * 1000)
    await upstream.send(b"second")
    await client.get(b"second")
    assert await client.rest() == b""


async def test_I6_a_body_that_arrives_with_the_end_of_the_response_spoils_no_connection(
    stage: StartStage, ends: Ends
) -> None:
    """The next request must not begin within the unsent body."""
    here = await stage(upstream=ends.url, small_body_bytes="0")
    client = await ends.client(here)
    await client.send(b"PUT /a HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 4\r\n\r\n")
    first = await ends.upstream()
    await first.head()
    first.writer.write(ANSWER)
    client.writer.write(b"body")
    assert (await client.answer()).endswith(SAID)
    assert await first.rest() in (b"", b"body")
    other = await ends.client(here)
    await other.send(b"GET /b HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
    second = await ends.upstream()
    assert (await second.head()).startswith(b"GET /b HTTP/1.1\r\n")
