"""--access-log: one JSON line per request, forwarded or refused, without secrets."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Serving, SlowApi, StartServing, until
from tests.support.stage import plans_text

SECRETS = ("hush-acme", "hush-key", "hush-bearer", "hush-query", "hush-cookie", "hush-redis")
KEY = "X-Api-Key: hush-acme"


async def call(here: Serving, method: str, path: str, *fields: str) -> tuple[int, str]:
    """The status and request id of one request on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    lines = (f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *fields, "", "")
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(30):
        answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split()[1]), answer.partition("X-Request-Id: ")[2].split("\r\n")[0]


def shape(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["status"], line["request_id"], line["method"], line["target"]


@pytest.fixture
def one_call(tmp_path: Path) -> Path:
    """A plan file with a quota of one request per month."""
    plans = tmp_path / "one.yaml"
    old, new = (hashlib.sha256(key).hexdigest() for key in (b"acme", b"hush-acme"))
    plans.write_text(plans_text(quota=1).replace(old, new))
    return plans


async def say(here: Serving, *pieces: bytes) -> bytes:
    """All bytes until the sidecar closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    for piece in pieces:
        writer.write(piece)
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    return answer


async def test_each_request_is_logged_without_a_secret(
    serving: StartServing, slow_api: SlowApi, one_call: Path
) -> None:
    slow_api.release.set()
    api = f"http://127.0.0.1:{slow_api.port}"
    here = await serving(upstream=api, plans=one_call, access_log=True)
    requests = [
        (*await call(here, "GET", "/items?token=hush-query", KEY, "Cookie: s=hush-cookie"),
         "GET", "/items"),
        (*await call(here, "POST", "/items", KEY, "Content-Length: 0"), "POST", "/items"),
        (*await call(here, "GET", "/items", "X-Api-Key: hush-key"), "GET", "/items"),
        (*await call(here, "PATCH", "/a", "Authorization: Bearer hush-bearer"), "PATCH", "/a"),
        (*await call(here, "GET", "/a", KEY, "Authorization: Bearer hush-bearer"), "GET", "/a"),
        (*await call(here, "GET", "/bulk/7?token=hush-query", KEY), "GET", "/bulk/7"),
        (*await call(here, "GET", "/items", "X-Api-Key: late"), "GET", "/items"),
        (*await call(here, "GET", "/items"), "GET", "/items"),
    ]  # fmt: skip
    assert [status for status, *_ in requests] == [200, 429, 401, 401, 400, 403, 402, 401]
    await until(lambda: len(here.said("request_ended")) >= len(requests))
    lines = here.said("request_ended")
    assert sorted(map(shape, lines)) == sorted(requests)
    for line in lines:
        assert line["level"] == "info"
        assert line["duration_ms"] >= 0
        assert not [secret for secret in SECRETS if secret in str(line)]


async def test_the_access_log_has_the_account_the_result_and_the_bytes(
    serving: StartServing, slow_api: SlowApi, one_call: Path
) -> None:
    slow_api.release.set()
    here = await serving(
        upstream=f"http://127.0.0.1:{slow_api.port}", plans=one_call, access_log=True
    )
    await call(here, "GET", "/items", KEY)
    await call(here, "GET", "/items", KEY)
    await call(here, "GET", "/bulk/7", KEY)
    await call(here, "GET", "/items", "X-Api-Key: late")
    await call(here, "GET", "/items")
    await until(lambda: len(here.said("request_ended")) >= 5)
    wanted = ("status", "reason", "account", "plan", "route", "class")
    rows = [tuple(line[name] for name in wanted) for line in here.said("request_ended")]
    assert sorted(rows) == [
        (200, "ok", "acme", "free", "rest", "standard"),
        (401, "no-credential", "-", "-", "-", "-"),
        (402, "suspended", "-", "-", "-", "-"),
        (403, "missing-feature", "acme", "free", "bulk", "standard"),
        (429, "quota", "acme", "free", "rest", "standard"),
    ]
    for line in here.said("request_ended"):
        assert line["bytes_in"] == 0
        sent = len("first-second")
        assert line["bytes_out"] == sent if line["status"] == 200 else line["bytes_out"] > sent


HOST = b"Host: a\r\nX-Api-Key: hush-acme\r\n"
LONG = b"/hush" + b"a" * 9_000
NOT_HTTP = {
    "http-400": (b"hush-bearer\r\n\r\n", "-", ""),
    "http-404": (b"GET /-/x?hush-query HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n",
                 "GET", "/-/x"),
    "http-405": (b"TRACE /x HTTP/1.1\r\n" + HOST + b"\r\n", "TRACE", "/x"),
    "http-408": (b"GET /slow?hush-query HTTP/1.1\r\nHo", "GET", "/slow"),
    "http-413": (b"PUT /x HTTP/1.1\r\nContent-Length: 99\r\n" + HOST + b"\r\n", "PUT", "/x"),
    "http-414": (b"GET " + LONG + b" HTTP/1.1\r\n\r\n", "GET", LONG[:256].decode()),
    "http-417": (b"GET /x HTTP/1.1\r\nExpect: hush-query\r\n" + HOST + b"\r\n", "GET", "/x"),
    "http-431": (b"GET /x HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", "GET", "/x"),
    "http-501": (b"brew /x HTTP/1.1\r\n" + HOST + b"\r\n", "-", ""),
    "http-505": (b"GET /x HTTP/2.0\r\n" + HOST + b"\r\n", "GET", "/x"),
}  # fmt: skip


async def test_invalid_and_reserved_requests_are_logged_and_counted(
    serving: StartServing,
) -> None:
    here = await serving(access_log=True, max_body_bytes=50, header_timeout_s=0.3)
    answers = await asyncio.gather(*(say(here, sent) for sent, _, _ in NOT_HTTP.values()))
    await until(lambda: len(here.said("request_ended")) == len(NOT_HTTP))
    lines = {line["reason"]: line for line in here.said("request_ended")}
    assert lines.keys() == NOT_HTTP.keys()
    metrics = (await here.ask("/metrics"))[1]
    for answer, (reason, (_, method, target)) in zip(answers, NOT_HTTP.items(), strict=True):
        line = lines[reason]
        assert answer.startswith(b"HTTP/1.1 %d " % line["status"]), answer
        assert f"http-{line['status']}" == reason
        assert line["request_id"].encode() in answer.partition(b"\r\n\r\n")[0]
        assert (line["method"], line["target"]) == (method, target)
        assert (line["account"], line["route"]) == ("-", "-")
        assert line["bytes_out"] == len(answer.partition(b"\r\n\r\n")[2])
        labels = f'{{class="-",outcome="{reason}",plan="-",route="-"}} 1.0'
        assert f"sidecar_requests_total{labels}" in metrics
    assert not [secret for secret in SECRETS if secret in str(here.log)]


async def test_without_the_option_no_request_is_logged(
    serving: StartServing, slow_api: SlowApi
) -> None:
    slow_api.release.set()
    here = await serving(upstream=f"http://127.0.0.1:{slow_api.port}")
    assert (await call(here, "GET", "/items", "X-Api-Key: acme"))[0] == 200
    here.process.terminate()
    assert await here.process.wait() == 0
    assert here.said("sidecar_stopped")
    assert here.said("request_ended") == []


async def test_the_password_of_redis_is_never_logged_or_shown_by_the_control_port(
    serving: StartServing,
) -> None:
    here = await serving(redis="redis://user:hush-redis@127.0.0.1:1/0", log_level="debug")
    assert (await here.call("/items"))[0] == 503
    answers = [await here.ask(path) for path in ("/readyz", "/config", "/metrics")]
    assert "hush-redis" not in str(answers) + str(here.log)
