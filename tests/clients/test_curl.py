"""curl against a real ASGI API through the sidecar."""

import json
import random
import secrets
from pathlib import Path

import pytest

from tests.support.http.asgi_api import GZIPPED, TEXT, digest
from tests.support.http.curl import curl
from tests.support.http.raw_ends import calls
from tests.support.stage import Stage

UPLOAD = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A file that contains UPLOAD."""
    made = tmp_path / "upload.bin"
    made.write_bytes(UPLOAD)
    return made


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_I6_every_method_arrives_with_its_json(base: str, method: str) -> None:
    done = await curl(f"{base}/echo/x?q=%20", "-X", method, "--json", '{"numbers": [1, 2]}')
    echo = json.loads(done.output)
    assert (echo["method"], echo["target"], echo["query"]) == (method, "/echo/x", "q=%20")
    assert (echo["size"], echo["sha256"]) == (19, digest(b'{"numbers": [1, 2]}'))


async def test_I6_a_form_and_a_multipart_upload_arrive(base: str, upload: Path) -> None:
    done = await curl(f"{base}/form", "--data-urlencode", "a=two words", "-d", "b=2")
    assert json.loads(done.output) == [["a", "two words"], ["b", "2"]]
    done = await curl(f"{base}/multipart", "-F", "note=hi", "-F", f"up=@{upload};type=image/x-y")
    assert json.loads(done.output) == [
        ["note", None, "text/plain", digest(b"hi")],
        ["up", "upload.bin", "image/x-y", digest(UPLOAD)],
    ]


@pytest.mark.parametrize("framing", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
async def test_I6_a_file_upload_arrives_unchanged(
    base: str, front: Stage, upload: Path, framing: str
) -> None:
    name = secrets.token_hex(8)
    done = await curl(f"{base}/upload/{name}", "-T", upload, "-H", framing)
    assert json.loads(done.output) == {"size": 3_000_000, "sha256": digest(UPLOAD)}
    (event,) = await calls(front)
    assert event["bytes_in"] == 3_000_000


async def test_I6_gzip_arrives_as_it_was_sent(base: str) -> None:
    assert (await curl(f"{base}/gzip")).output == GZIPPED
    assert (await curl(f"{base}/gzip", "--compressed")).output == TEXT


async def test_cookies_and_redirects(base: str, tmp_path: Path) -> None:
    jar = tmp_path / "jar"
    await curl(f"{base}/cookies", "-c", jar)
    done = await curl(f"{base}/cookies", "-b", jar)
    assert json.loads(done.output) == {"session": "s1", "theme": "dark", "last": "a,b; c"}
    done = await curl(f"{base}/redirect/302", "-L", "-d", "body")
    assert json.loads(done.output)["target"] == "/echo/redirected"
    assert (done.status, done.connects) == (200, 1)


async def test_head_and_empty_responses_end_at_once(base: str) -> None:
    done = await curl(f"{base}/file", "-I")
    assert b"\r\ncontent-length: %d\r\n" % len(TEXT) in done.output.lower()
    for status in (204, 304):
        done = await curl(f"{base}/status/{status}")
        assert (done.output, done.status, done.code) == (b"", status, 0)


async def test_ranges_and_resumed_downloads(base: str, tmp_path: Path) -> None:
    done = await curl(f"{base}/file", "-r", "5-14")
    assert (done.status, done.output) == (206, TEXT[5:15])
    part = tmp_path / "part"
    part.write_bytes(TEXT[:1000])
    done = await curl(f"{base}/file", "-C", "-", "-o", part)
    assert (done.status, part.read_bytes()) == (206, TEXT)


async def test_sequential_requests_share_a_connection(base: str, front: Stage) -> None:
    done = await curl(f"{base}/echo/[1-20]", "-o", "/dev/null")
    assert done.connects == 0
    assert front.app.data_port._pool.size == 1
    assert len(await calls(front)) == 20


async def test_fifty_concurrent_requests_get_their_own_responses(
    base: str, front: Stage, tmp_path: Path
) -> None:
    url = f"{base}/together/{secrets.token_hex(8)}/50?n=[1-50]"
    many = ("--parallel", "--parallel-immediate", "--parallel-max", "50")
    done = await curl(url, *many, "-o", tmp_path / "answer#1")
    assert done.code == 0
    for number in range(1, 51):
        assert json.loads((tmp_path / f"answer{number}").read_text()) == {"query": f"n={number}"}
    assert [event["status"] for event in await calls(front)] == [200] * 50


async def test_a_response_to_http10_ends_with_the_connection(base: str) -> None:
    done = await curl(f"{base}/echo/x", "-0", "-i")
    head, _, body = done.output.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    assert json.loads(body)["target"] == "/echo/x"
