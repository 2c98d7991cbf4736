"""Costs from sizes, in every framing: of a request, and of a response without its cost."""

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest

from tests.support.stage import Stage, StartStage

PLANS = """
version: 1
meters:
  both: {unit: token, reserve: {json: max_tokens, default: 100, bytes_per_unit: 4, max_bytes: 1000}}
  size: {unit: token, reserve: {bytes_per_unit: 10, min: 2, max_bytes: 1000}}
  field: {unit: token, reserve: {header: X-Units, default: 9, bytes_per_unit: 4, take: greater}}
  late:
    unit: token
    settle: {json: usage.total, else: {units_per_event: 3, bytes_per_unit: 4, at_least: min}}
  named: {unit: token, settle: {header: X-Units, else: {bytes_per_unit: 4}}}
routes:
  - {id: late, match: "/late", cost: {late: 7}}
  - {id: named, match: "/named", cost: {named: 7}}
  - {id: both, match: "/both", cost: {both: reserve}}
  - {id: size, match: "/size", cost: {size: reserve}}
  - {id: field, match: "/field", cost: {field: reserve}}
plans:
  pro:
    limits:
      - {id: b, meter: both, quota: 1000000000/month}
      - {id: s, meter: size, quota: 1000000000/month}
      - {id: l, meter: late, quota: 1000000000/month}
      - {id: t, meter: named, quota: 1000000000/month}
      - {id: f, meter: field, quota: 1000000000/month}
accounts:
  - id: acme
    plan: pro
    keys: [{id: k1, sha256: 1fbfd5e2a34698deb796eb78add256a067ec065519b8329b1eb85f5e2ef906d4}]
"""
BODY = b'{"max_tokens":5,"p":"%b"}'
SMALL, LARGE = BODY % (b"x" * 77), BODY % (b"x" * 4_977)
assert (len(SMALL), len(LARGE)) == (100, 5_000)


@pytest.fixture
async def here(stage: StartStage, tmp_path: Path) -> Stage:
    plans = tmp_path / "sizes.yaml"
    plans.write_text(PLANS)
    return await stage(plans=str(plans))


async def usage(
    here: Stage, path: str, body: bytes, fields: bytes = b"", *, chunks: int = 0
) -> tuple[int, Any]:
    """Units and the reason for an estimate of one request with this body."""
    framing = b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    if chunks:
        parts = [body[at : at + chunks] for at in range(0, len(body), chunks)]
        framing = b"Transfer-Encoding: chunked\r\n\r\n"
        framing += b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    answer = await here.raw(
        b"POST /%b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\n%b%b" % (path.encode(), fields, framing)
    )
    assert answer.startswith(b"HTTP/1.1 200")
    data = (await here.events())[-1]["data"]
    [(meter, units)] = data["usage"].items()
    return units, data.get("estimated", {}).get(meter)


@pytest.mark.parametrize("chunks", [0, 7, 100])
async def test_I11_the_size_is_added_however_the_body_is_framed(here: Stage, chunks: int) -> None:
    assert await usage(here, "both", SMALL, chunks=chunks) == (5 + 25, None)
    assert await usage(here, "size", SMALL, chunks=chunks) == (10, None)
    assert await usage(here, "field", SMALL, chunks=chunks) == (25, "missing")
    assert await usage(here, "field", SMALL, b"X-Units: 24\r\n", chunks=chunks) == (25, None)
    assert await usage(here, "field", SMALL, b"X-Units: 26\r\n", chunks=chunks) == (26, None)


async def test_I11_a_body_beyond_what_is_read_has_its_announced_size(here: Stage) -> None:
    assert await usage(here, "both", LARGE) == (100 + 1_250, "too_large")
    assert await usage(here, "size", LARGE) == (500, None)
    assert here.app.metrics.costs_estimated == {("both", "too_large"): 1}


@pytest.mark.parametrize(
    ("path", "units", "why"),
    [("size", 500, None), ("both", 100 + 1_250, "too_large"), ("field", 1_250, "missing")],
)
@pytest.mark.parametrize("coding", [b"", b"Content-Encoding: gzip\r\n"])
async def test_I11_a_body_of_unknown_size_settles_at_its_size(
    here: Stage, path: str, units: int, why: str | None, coding: bytes
) -> None:
    """A client that sends a large body in chunks pays what it pays with Content-Length.

    Of a coding that cannot be undone in time, at least its own size counts.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST /%b HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n"
        b"Content-Type: application/json\r\nConnection: close\r\n%b"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b"
        % (path.encode(), coding, 2_000, LARGE[:2_000])
    )
    async with asyncio.timeout(20):
        while not here.upstream.received and path != "field":  # decided before the body is complete
            await asyncio.sleep(0)
        writer.write(b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (3_000, LARGE[2_000:]))
        assert (await reader.read(-1)).startswith(b"HTTP/1.1 200")
    writer.close()
    data = (await here.events())[-1]["data"]
    assert data["usage"] == {path: units}
    if path != "field" or not coding:
        assert data.get("estimated") == ({path: why or "too_large"} if why or coding else None)
    assert data["bytes_in"] == 5_000


@pytest.mark.parametrize("chunks", [0, 7])
async def test_I11_a_coding_does_not_make_a_body_smaller(here: Stage, chunks: int) -> None:
    encoded, coding = gzip.compress(LARGE, mtime=0), b"Content-Encoding: gzip\r\n"
    assert len(encoded) < 100
    assert await usage(here, "both", encoded, coding, chunks=chunks) == (5 + 1_250, None)
    assert await usage(here, "size", encoded, coding, chunks=chunks) == (500, None)
    broken = await usage(here, "size", encoded[:-9], coding, chunks=chunks)
    assert broken == (-(-len(encoded[:-9]) // 10), "truncated")
    assert (await usage(here, "size", SMALL, b"Content-Encoding: x\r\n", chunks=chunks)) == (
        10,
        "undecodable",
    )


async def test_a_request_without_a_body_has_the_minimum(here: Stage) -> None:
    assert await usage(here, "size", b"") == (2, None)
    answer = await here.raw(
        b"GET /size HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer demo-pro-key\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200")
    assert (await here.events())[-1]["data"]["usage"] == {"size": 2}


def answer(kind: str, body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (
        kind.encode(),
        len(body),
        fields,
        body,
    )


@pytest.mark.parametrize(
    ("kind", "body", "fields", "units", "why"),
    [
        ("text/event-stream", b"data: {}\n\n" * 5, b"", 15, "missing"),
        ("application/x-ndjson", b"{}\n" * 5, b"", 15, "missing"),
        ("application/json", b"[{}, {}, {}]", b"", 9, "missing"),
        ("application/json", b'{"a":"%b"}' % (b"x" * 93), b"", 26, "missing"),
        ("audio/mpeg", b"x" * 101, b"", 26, "not_json"),
        ("text/plain", b"", b"", 0, "not_json"),
        (
            "application/json",
            gzip.compress(b'{"a":"%b"}' % (b"x" * 393), mtime=0),
            b"Content-Encoding: gzip\r\n",
            101,
            "missing",
        ),
        ("application/json", b"x" * 101, b"Content-Encoding: x\r\n", 26, "undecodable"),
    ],
)
async def test_I11_what_passed_of_a_response_without_its_cost_counts(
    here: Stage, kind: str, body: bytes, fields: bytes, units: int, why: str
) -> None:
    here.upstream.answer = answer(kind, body, fields)
    assert await usage(here, "late", SMALL) == (units, why)
    assert here.app.metrics.costs_estimated == {("late", why): 1}


async def test_a_cost_in_a_field_has_a_fallback_too(here: Stage) -> None:
    here.upstream.answer = answer("text/plain", b"x" * 101)
    assert await usage(here, "named", SMALL) == (26, "missing")
    here.upstream.answer = answer("text/plain", b"x" * 9)
    assert await usage(here, "named", SMALL) == (7, "missing")
    here.upstream.answer = answer("text/plain", b"x" * 101, b"X-Units: 2\r\n")
    assert await usage(here, "named", SMALL) == (2, None)
