"""An independent API (httpbin, under waitress): responses directly and through the sidecar."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.servers import free_port
from tests.support.stage import Stage, StartStage

# Expected differences: identifiers, the sidecar's fields, and the address of the API.
OURS = ("date", "x-request-id", "ratelimit", "ratelimit-policy", "connection", "transfer-encoding")


@pytest.fixture
async def httpbin() -> AsyncIterator[str]:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "waitress", f"--listen=127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(
        *command, "httpbin:app", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def front(stage: StartStage, httpbin: str) -> tuple[str, str]:
    here: Stage = await stage(upstream=httpbin)
    return httpbin, f"http://127.0.0.1:{here.app.data_port.port}"


async def ask(base: str, method: str, path: str, body: bytes | None) -> tuple[object, ...]:
    fields = {"X-Api-Key": "acme", "Host": "api.test", "User-Agent": "t", "Accept-Encoding": "gzip"}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(
            method, base + path, data=body, headers=fields, allow_redirects=False
        ) as got,
    ):
        kept = sorted((k.lower(), v) for k, v in got.headers.items() if k.lower() not in OURS)
        return got.status, got.reason, kept, await got.read()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/html", None),
        ("HEAD", "/html", None),
        ("OPTIONS", "/get", None),
        ("GET", "/status/204", None),
        ("GET", "/status/304", None),
        ("GET", "/status/418", None),
        ("DELETE", "/status/500", None),
        ("PUT", "/status/201", b"x" * 100_000),
        ("GET", "/redirect-to?url=%2Fhtml", None),
        ("GET", "/cookies/set?a=b%3Bc", None),
        ("GET", "/gzip", None),
        ("GET", "/stream-bytes/70000?seed=1&chunk_size=1000", None),
        ("GET", "/bytes/200000?seed=7", None),
        ("GET", "/robots.txt", None),
    ],
)
async def test_I6_a_response_is_the_same_with_and_without_the_sidecar(
    front: tuple[str, str], method: str, path: str, body: bytes | None
) -> None:
    direct, through = front
    straight = await ask(direct, method, path, body)
    passed = await ask(through, method, path, body)
    if path == "/gzip":  # the body has the headers of the request, with the sidecar's fields
        assert passed[:2] == straight[:2]
        assert ("content-encoding", "gzip") in passed[2]  # type: ignore[operator]
    else:
        assert passed == straight


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_I6_a_body_arrives_as_it_was_sent(front: tuple[str, str], method: str) -> None:
    text = json.dumps({"übung": list(range(2000))}).encode()
    status, _, _, answer = await ask(front[1], method, f"/{method.lower()}", text)
    assert status == 200
    assert json.loads(answer)["data"] == text.decode()  # type: ignore[arg-type]


async def test_curl_follows_redirects_and_keeps_cookies(
    front: tuple[str, str], tmp_path: Path
) -> None:
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "--compressed", "-L", "-b", str(tmp_path / "jar"),
        "-c", str(tmp_path / "jar"), "-H", "X-Api-Key: acme",
        front[1] + "/cookies/set?colour=blue",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await curl.communicate()
    assert curl.returncode == 0
    assert json.loads(out) == {"cookies": {"colour": "blue"}}


async def test_curl_uploads_with_expect_continue(front: tuple[str, str], tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"z" * 3_000_000)
    curl = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "-H", "X-Api-Key: acme", "-H", "Expect: 100-continue",
        "-T", str(upload), front[1] + "/put",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await curl.communicate()
    assert curl.returncode == 0
    assert len(json.loads(out)["data"]) == 3_000_000
