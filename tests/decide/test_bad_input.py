"""What a gateway sends by mistake, or passes on from a hostile client: refused, by its name."""

import asyncio
from typing import Any

import pytest

from tests.decide.conftest import StartDecide
from tests.support.decide_stage import requests

GOOD = {"method": "GET", "path": "/items"}
ID = "019e0000-0000-7000-8000-000000000000.0"
DECIDE: list[tuple[Any, str]] = [
    (b"", ""),
    (b"{", ""),
    (b"\xff", ""),
    (b"[1]", ""),
    (b"[" * 100_000, ""),
    ({}, "method"),
    ({"method": "GET"}, "path"),
    (GOOD | {"method": "get"}, "method"),
    (GOOD | {"method": "GET /x HTTP/1.1\r\n"}, "method"),
    (GOOD | {"method": 1}, "method"),
    (GOOD | {"path": "items"}, "path"),
    (GOOD | {"path": "/a b"}, "path"),
    (GOOD | {"path": "/a#b"}, "path"),
    (GOOD | {"path": "/" + "a" * 9_000}, "path"),
    (GOOD | {"headers": []}, "headers"),
    (GOOD | {"headers": {"X-Api-Key": 1}}, "headers.X-Api-Key"),
    (GOOD | {"headers": {"X-Api-Key": ["a", None]}}, "headers.X-Api-Key"),
    (GOOD | {"headers": {"X-Api-Key": "a\r\nX-Plan: pro"}}, "headers.X-Api-Key"),
    (GOOD | {"headers": {"X Api": "a"}}, "headers.X Api"),
    (GOOD | {"headers": {f"x-{n}": "" for n in range(300)}}, "headers"),
    (GOOD | {"headers": {"x": "a" * 100_000}}, "headers"),
    (GOOD | {"address": "example.com"}, "address"),
    (GOOD | {"body": {}}, "body"),
    (GOOD | {"settle": 1}, "settle"),
    (GOOD | {"wait_ms": -1}, "wait_ms"),
    (GOOD | {"wait_ms": 1.5}, "wait_ms"),
    (GOOD | {"plan": "pro"}, "plan"),
    (GOOD | {"account": "acme"}, "account"),
]
SETTLE: list[tuple[Any, str]] = [
    (b"null", ""),
    ({"status": 200}, "id"),
    ({"id": ID}, "status"),
    ({"id": "../../x.0", "status": 200}, "id"),
    ({"id": ID, "status": 99}, "status"),
    ({"id": ID, "status": True}, "status"),
    ({"id": ID, "status": 200, "outcome": "unsettled"}, "outcome"),
    ({"id": ID, "status": 200, "usage": {"tokens": -1}}, "usage.tokens"),
    ({"id": ID, "status": 200, "usage": {"tokens": 2**53}}, "usage.tokens"),
    ({"id": ID, "status": 200, "usage": {"tokens": 1.0}}, "usage.tokens"),
    ({"id": ID, "status": 200, "latency_ms": "1"}, "latency_ms"),
    ({"id": ID, "status": 200, "cost": 1}, "cost"),
]  # fmt: skip


async def test_a_wrong_document_gets_400_with_the_name_of_the_member(decide: StartDecide) -> None:
    here, gateway = await decide()
    for path, cases in (("/v1/decide", DECIDE), ("/v1/settle", SETTLE)):
        for document, member in cases:
            answer = await gateway.ask(path, document)
            assert answer.status == 400, (document, answer)
            assert answer.document.get("member", "") == member, document
            assert answer.document["type"] == "https://quota-sidecar.dev/problems/decide-400"
    assert await requests(here) == []
    assert (await gateway.decide("GET", "/items"))["decision"] == "allow"


PLAIN: list[tuple[dict[str, str], str]] = [
    ({}, "X-Forwarded-Method"),
    ({"X-Forwarded-Method": "GET"}, "X-Forwarded-Uri"),
    ({"X-Forwarded-Uri": "/items"}, "X-Forwarded-Method"),
    ({"X-Original-URI": "/items"}, "X-Original-Method"),
    ({"X-Forwarded-Method": "G T", "X-Forwarded-Uri": "/items"}, "X-Forwarded-Method"),
    ({"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "items"}, "X-Forwarded-Uri"),
    ({"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/a", "X-Original-Method": "GET",
      "X-Original-URI": "/login"}, "X-Original-URI"),
    ({"X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/a", "X-Original-URI": "/a"},
     "X-Original-Method"),
]  # fmt: skip


async def test_incomplete_header_fields_get_400_with_their_name(decide: StartDecide) -> None:
    here, gateway = await decide()
    for fields, member in PLAIN:
        answer = await gateway.ask("/v1/forward-auth", method="GET", X_Api_Key="acme", **fields)
        assert (answer.status, answer.document["member"]) == (400, member), fields
    twice = (
        b"GET /v1/forward-auth HTTP/1.1\r\nHost: x\r\nX-Forwarded-Method: GET\r\n"
        b"X-Forwarded-Uri: /a\r\nX-Forwarded-Uri: /b\r\n\r\n"
    )
    answer = await gateway.send(twice)
    assert (answer.status, answer.document["member"]) == (400, "X-Forwarded-Uri")
    assert await requests(here) == []


@pytest.mark.parametrize(
    "carried",
    [
        "", "x", "e30=", "eyJzdGF0dXMiOjIwMCwiaGVhZGVycyI6e30sImJvZHkiOiIifQ==",
        # a status of 403 and a field A with a line break
        "eyJzdGF0dXMiOjQwMywiaGVhZGVycyI6eyJBIjoiYlxyXG5DOiBkIn0sImJvZHkiOiIifQ==",
    ],
)  # fmt: skip
async def test_only_a_refusal_can_be_carried(decide: StartDecide, carried: str) -> None:
    _, gateway = await decide()
    answer = await gateway.ask("/v1/refusal", method="GET", X_Refusal=carried)
    assert (answer.status, answer.document["member"]) == (400, "X-Refusal")


async def test_other_paths_and_methods_are_refused(decide: StartDecide) -> None:
    _, gateway = await decide()
    assert (await gateway.ask("/v1/decide", method="GET")).status == 405
    assert (await gateway.ask("/v1/settle", method="PUT")).status == 405
    assert (await gateway.ask("/v1/decide/", GOOD)).status == 404
    assert (await gateway.ask("/", method="GET")).status == 404


async def test_a_large_document_is_refused_before_it_is_read(decide: StartDecide) -> None:
    here, gateway = await decide()
    for size in (10 << 20, 1 << 40):
        head = f"POST /v1/decide HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        answer = await gateway.send(head + b"{" * 65_536)
        assert (answer.status, answer.fields["Connection"]) == (413, "close")
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    head = b"POST /v1/decide HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await gateway.send(head + chunk * 20)
    assert answer.status == 413
    assert here.app.decide is not None
    async with asyncio.timeout(10):
        while here.app.decide.port.connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"POST /v1/decide HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/forward-auth HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 60_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_gets_one_answer(decide: StartDecide, data: bytes) -> None:
    _, gateway = await decide()
    answer = await gateway.send(data)
    assert answer.status in (400, 431, 505)
    assert answer.document["type"].startswith("https://quota-sidecar.dev/problems/decide-")
    assert answer.fields["Connection"] == "close"
