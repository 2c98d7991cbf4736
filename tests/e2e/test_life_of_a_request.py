"""One request through the whole sidecar, as received by the client, the upstream and the spool."""

import asyncio

import pytest

from sidecar.stores import keys
from sidecar.stores.admin import Admin
from tests.support.stage import StartStage, problem, status


async def test_an_allowed_request_reaches_the_api_and_is_recorded(stage: StartStage) -> None:
    here = await stage()
    answer = await here.call("GET", "/items?x=%20y")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\nok")
    assert b'RateLimit: "monthly";r=999;t=' in answer
    assert here.upstream.received.startswith(b"GET /items?x=%20y HTTP/1.1\r\nHost: api.test\r\n")
    assert b"X-Account-Id: acme\r\nX-Plan: free\r\nX-Key-Id: k1\r\n" in here.upstream.received
    [event] = await here.events()
    assert event["subject"] == "acme"
    assert event["data"]["usage"] == {"requests": 1}
    assert event["data"]["status"] == 200
    assert event["id"].encode() in answer


async def test_identity_fields_of_a_client_are_dropped(stage: StartStage) -> None:
    here = await stage()
    await here.raw(
        b"GET /items HTTP/1.1\r\nHost: api.test\r\nX-Api-Key: acme\r\nX-Account-Id: boss\r\n"
        b"X_Plan: unlimited\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: X-Key-Id, X-Secret\r\n"
        b"X-Secret: 1\r\nX-Kept: yes\r\n\r\n"
    )
    received = bytes(here.upstream.received)
    for absent in (b"boss", b"unlimited", b"9.9.9.9", b"X-Secret", b"Connection"):
        assert absent not in received
    for present in (b"X-Kept: yes", b"X-Key-Id: k1", b"X-Forwarded-For: 127.0.0.1", b"Via: 1.1 "):
        assert present in received


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: unknown\r\n\r\n", 401),
        (b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 401),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nX-Api-Key: lena\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: late\r\n\r\n", 402),
        (b"GET /bulk/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n", 403),
        (b"GET /a%2f..%2fbulk HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n", 400),
        (b"GET /-/usage HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n", 404),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (b"GET /x\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ],
)
async def test_I10_a_refused_request_is_explained_and_never_forwarded(
    stage: StartStage, request_head: bytes, expected: int
) -> None:
    here = await stage()
    answer = await here.raw(request_head)
    assert status(answer) == expected
    explained = problem(answer)
    assert explained["status"] == expected
    assert explained["title"]
    assert explained["how_to_fix"]
    assert explained["request_id"].encode() in answer.partition(b"\r\n\r\n")[0]
    assert here.upstream.received == b""
    assert await here.events() == []


async def test_I4_one_event_per_forwarded_request_and_none_for_a_refused_one(
    stage: StartStage,
) -> None:
    here = await stage(quota=3)
    statuses = [status(await here.call("GET", "/items")) for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    types = [event["type"] for event in await here.events()]
    assert types.count("api.request.v1") == 3
    assert types.count("account.notice.v1") == 1
    assert len(types) == 4


async def test_I3_critical_requests_pass_when_the_quota_is_used_up(stage: StartStage) -> None:
    here = await stage(quota=1)
    assert status(await here.call("GET", "/items")) == 200
    refused = await here.call("GET", "/items")
    assert status(refused) == 429
    explained = problem(refused)
    assert explained["violated-policies"] == ["monthly"]
    assert "POST /login" in explained["still_available"]
    assert b"Retry-After: " in refused
    for _ in range(3):
        assert status(await here.call("GET", "/status")) == 200
        assert status(await here.call("POST", "/login", Content_Length="0")) == 200


async def test_I3_without_redis_critical_requests_pass_and_others_follow_the_plan(
    stage: StartStage,
) -> None:
    here = await stage(redis="redis://127.0.0.1:1/0")
    assert status(await here.call("GET", "/status")) == 200
    assert status(await here.call("POST", "/login", Content_Length="0")) == 200
    denied = await here.call("GET", "/items")
    assert status(denied) == 503
    assert b"Retry-After: " in denied
    assert status(await here.call("GET", "/items", key="lena")) == 200
    assert any("redis" in reason for reason in here.app.readiness().reasons)


async def test_I6_a_large_body_passes_unchanged_both_ways(stage: StartStage) -> None:
    here = await stage()
    body = bytes(range(256)) * 20_000
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    head = b"POST /up HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: %d\r\n\r\n"
    answer = await here.raw(head % len(body) + body)
    assert answer.partition(b"\r\n\r\n")[2] == body
    assert bytes(here.upstream.received).partition(b"\r\n\r\n")[2] == body
    [event] = await here.events()
    assert (event["data"]["bytes_in"], event["data"]["bytes_out"]) == (len(body), len(body))


async def test_I6_a_chunked_body_keeps_its_bytes(stage: StartStage) -> None:
    here = await stage()
    head = b"POST /up HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert status(await here.raw(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")) == 200
    body = bytes(here.upstream.received).partition(b"\r\n\r\n")[2]
    assert body == b"5\r\nabcde\r\n0\r\n\r\n"  # the sidecar generates the framing, not the content


async def test_pipelined_requests_are_answered_in_order(stage: StartStage) -> None:
    here = await stage()
    one = b"GET /%d HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(b"".join(one % number for number in range(10)))
    async with asyncio.timeout(10):
        for _ in range(10):
            assert b" 200 OK" in await reader.readuntil(b"\r\n\r\nok")
    writer.close()
    targets = [
        line for line in bytes(here.upstream.received).split(b"\r\n") if b" HTTP/1.1" in line
    ]
    assert targets == [b"GET /%d HTTP/1.1" % number for number in range(10)]
    assert here.upstream.connections == 1


async def test_a_refused_upload_is_never_forwarded(stage: StartStage) -> None:
    here = await stage()
    answer = await here.raw(
        b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: unknown\r\nContent-Length: 9000000\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    assert status(answer) == 401
    assert b"Connection: close" in answer


async def test_continue_comes_after_admission(stage: StartStage) -> None:
    """From the sidecar itself, where the API does not answer the expectation in time."""
    here = await stage(expect_timeout_s="0.1")
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    writer.write(
        b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert b" 200 OK" in await reader.readuntil(b"\r\n\r\nok")
    writer.close()


async def test_head_has_no_body_and_the_connection_stays_usable(stage: StartStage) -> None:
    here = await stage()
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", here.app.data_port.port)
    async with asyncio.timeout(10):
        for _ in range(3):
            writer.write(b"HEAD /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n\r\n")
            assert b"Content-Length: 2" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_an_unreachable_api_is_an_explained_502(stage: StartStage) -> None:
    here = await stage(upstream="http://127.0.0.1:1")
    answer = await here.call("GET", "/items")
    assert status(answer) == 502
    assert "reached" in problem(answer)["title"]
    [event] = await here.events()
    assert event["data"]["reason"] == "upstream_refused"


async def test_an_api_that_hangs_is_a_504(stage: StartStage) -> None:
    here = await stage(response_timeout_s="0.3")
    here.upstream.hold = True
    assert status(await here.call("GET", "/items")) == 504


@pytest.mark.parametrize(
    "nonsense",
    [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nA"],
)
async def test_an_api_with_invalid_responses_is_a_502_or_504(
    stage: StartStage, nonsense: bytes
) -> None:
    here = await stage(response_timeout_s="0.3")
    here.upstream.answer = nonsense
    assert status(await here.call("GET", "/items")) in (502, 504)


async def test_a_client_that_stalls_during_the_head_gets_a_408(stage: StartStage) -> None:
    here = await stage(header_timeout_s="0.2")
    assert status(await here.raw(b"GET /x HTTP/1.1\r\nHo")) == 408


async def test_a_client_that_stalls_during_the_body_gets_a_408(stage: StartStage) -> None:
    here = await stage(body_timeout_s="0.2")
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 10\r\n\r\nhel"
    assert status(await here.raw(head)) == 408


async def test_a_body_over_the_limit_is_a_413(stage: StartStage) -> None:
    here = await stage(max_body_bytes="10")
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 11\r\n\r\n"
    assert status(await here.raw(head)) == 413
    assert here.upstream.received == b""


async def test_a_refusal_is_text_for_a_client_that_accepts_only_text(stage: StartStage) -> None:
    here = await stage()
    answer = await here.call("GET", "/items", key=None, Accept="text/plain")
    assert b"Content-Type: text/plain" in answer


async def test_I7_a_valid_plan_file_applies_to_the_next_request_and_an_invalid_one_never(
    stage: StartStage,
) -> None:
    here = await stage(quota=2)
    assert [status(await here.call("GET", "/a")) for _ in range(3)] == [200, 200, 429]
    good = here.plans.read_text()
    here.plans.write_text(good.replace("quota: 2/", "quota: two/"))
    assert not await here.app.keeper.reload()
    assert here.app.keeper.status()["failed_since"]
    assert status(await here.call("GET", "/a")) == 429
    here.plans.write_text(good.replace("quota: 2/", "quota: 3/"))
    assert await here.app.keeper.reload()
    assert here.app.keeper.status()["failed_since"] is None
    assert [status(await here.call("GET", "/a")) for _ in range(2)] == [200, 429]


async def test_a_key_from_redis_works_at_once_and_is_revoked_within_a_second(
    stage: StartStage, valkey_url: str
) -> None:
    here = await stage()
    with Admin(valkey_url, "qs") as admin:
        key_id, secret = admin.create_key("acme", random_bytes=lambda size: bytes(range(size)))
        assert status(await here.call("GET", "/a", key=secret)) == 200
        admin.revoke_key("acme", key_id)
        async with asyncio.timeout(1):
            while status(await here.call("GET", "/a", key=secret)) != 401:
                await asyncio.sleep(0.01)
    assert keys.changes("qs") == "qs:changes"
