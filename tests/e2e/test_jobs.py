"""Deferred jobs as customers see them: accepted, run, read and cancelled."""

import asyncio
import time

import pytest
import redis

from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Pack
from sidecar.stores.admin import Admin
from tests.support.jobs_plan import ROOM, a_stage, ask, jobs_plan, until_job
from tests.support.stage import Stage, StartStage

BOOST = Pack("boost", "monthly", "requests", 3, "month")
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
async def here(stage: StartStage) -> Stage:
    return await a_stage(stage, job_fields="X-Kept,X-Made")


def buy(valkey_url: str, grant_id: str = "g1", units: int = 3, account: str = "acme") -> None:
    pack = Pack("boost", "monthly", "requests", units, "month")
    with Admin(valkey_url, "qs") as admin:
        assert admin.grant(Account(account, "free"), pack, grant_id).new


async def test_a_deferrable_request_beyond_the_quota_is_accepted_with_its_eta(
    here: Stage,
) -> None:
    accepted = await ask(here, "POST", "/exports/1", b"all of it")
    assert accepted.status == 202
    job = accepted.json
    assert accepted.headers["location"] == job["href"] == f"/-/jobs/{job['id']}"
    assert (job["state"], job["position"], job["account"]) == ("waiting", 1, "acme")
    assert (job["method"], job["target"]) == ("POST", "/exports/1")
    assert job["eta"].endswith("-01T00:00:00Z")  # when the month's quota resets
    assert int(accepted.headers["retry-after"]) > 0
    assert "preference-applied" not in accepted.headers
    assert accepted.headers["ratelimit"].startswith('"monthly";r=0')
    again = await ask(here, "GET", job["href"])
    assert (again.status, again.json) == (200, job)


async def test_a_preference_defers_any_request_that_is_not_critical(here: Stage) -> None:
    plain = await ask(here, "GET", "/items")
    asked = await ask(here, "GET", "/items", Prefer='wait=5, "a,b", Respond-Async;x=1')
    assert (plain.status, asked.status) == (429, 202)
    assert asked.headers["preference-applied"] == "respond-async"
    assert (await ask(here, "GET", "/status", **ASYNC)).status == 200


async def test_a_job_runs_in_the_class_deferrable(here: Stage, valkey_url: str) -> None:
    href = (await ask(here, "GET", "/items", **ASYNC)).json["href"]
    buy(valkey_url)
    await until_job(here, href, "done")
    events = [e["data"] for e in await here.events() if e["type"] == "api.request.v1"]
    assert [event["class"] for event in events] == ["standard", "deferrable"]


async def test_a_request_that_fits_is_forwarded_at_once(stage: StartStage) -> None:
    here = await a_stage(stage, quota=5, used_up=False)
    accepted = await ask(here, "POST", "/exports/1", **ASYNC)
    assert (accepted.status, accepted.body) == (200, b"ok")
    assert "preference-applied" not in accepted.headers


async def test_waiting_jobs_run_in_order_after_a_grant_and_store_the_response(
    here: Stage, valkey_url: str
) -> None:
    here.upstream.answer = (
        b"HTTP/1.1 201 Created\r\nX-Made: yes\r\nSet-Cookie: a=b\r\nContent-Length: 4\r\n\r\ndone"
    )
    hrefs = [
        (await ask(here, "POST", f"/exports/{n}", b"body %d" % n, X_Kept="yes")).json["href"]
        for n in range(3)
    ]
    positions = [(await ask(here, "GET", href)).json["position"] for href in hrefs]
    assert positions == [1, 2, 3]
    buy(valkey_url)
    jobs = [await until_job(here, href, "done") for href in hrefs]
    assert [job["started_at"] for job in jobs] == sorted(job["started_at"] for job in jobs)
    for job in jobs:
        result = job["result"]
        assert (result["status"], result["body"], result["truncated"]) == (201, "done", False)
        assert result["headers"]["x-made"] == ["yes"]
        assert "set-cookie" not in result["headers"]
        assert (job["reason"], job["position"], job["eta"]) == ("ok", None, None)
    seen = bytes(here.upstream.received)
    order = [seen.index(b"POST /exports/%d HTTP/1.1\r\n" % n) for n in range(3)]
    assert order == sorted(order)
    assert seen.count(b"X-Kept: yes\r\n") == 3
    assert seen.count(b"X-Account-Id: acme\r\n") == 4
    assert b"body 2" in seen


async def test_I4_a_job_is_metered_once_when_it_runs_and_not_when_it_is_accepted(
    here: Stage, valkey_url: str
) -> None:
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    assert [e["data"]["route"] for e in await here.events()] == ["rest"]
    buy(valkey_url)
    await until_job(here, href, "done")
    events = [e for e in await here.events() if e["type"] == "api.request.v1"]
    assert [e["data"]["route"] for e in events] == ["rest", "export"]
    assert events[1]["data"]["usage"] == {"requests": 1}
    assert href == f"/-/jobs/{events[1]['data']['job']}"
    assert "job" not in events[0]["data"]
    left = await ask(here, "GET", "/items")
    assert left.headers["ratelimit"].startswith('"monthly";r=1')  # 1 + 3, and three requests


async def test_credentials_are_never_stored(here: Stage, valkey_url: str) -> None:
    for number, fields in enumerate((
        {"Cookie": "session=hush-1"}, {"X_Auth_Token": "hush-2"}, {"X_Api_Secret": "hush-3"},
        {"Proxy_Authorization": "hush-4"},
    )):  # fmt: skip
        accepted = await ask(here, "POST", f"/exports/{number}", b"x", **fields)
        assert accepted.status == 202
    with redis.Redis.from_url(valkey_url) as client:
        dumps = b"".join(client.dump(name) or b"" for name in client.scan_iter("*"))
        records = [client.hgetall(name) for name in client.scan_iter("*:job:*")]
    assert len(records) == 4
    assert b"hush" not in dumps + repr(records).encode()
    assert all(record[b"fields"] == b"" for record in records)


async def test_I9_every_key_in_redis_expires(here: Stage, valkey_url: str) -> None:
    accepted = await ask(here, "POST", "/exports/1", b"x", Idempotency_Key="one")
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        names = list(client.scan_iter("*jobs*"))
        assert {name.rpartition(":")[2] for name in names} >= {"queue", "open", "accounts"}
        assert all(client.ttl(name) > 0 for name in names)
        assert (await ask(here, "DELETE", accepted.json["href"])).status == 200
        [record] = client.scan_iter("*:job:*")
        assert 0 < client.ttl(record) <= 86_400


async def test_only_its_own_account_can_read_a_job(here: Stage) -> None:
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    for method in ("GET", "DELETE"):
        assert (await ask(here, method, href, key="other")).status == 404
        assert (await ask(here, method, href, key="unknown")).status == 401
    assert (await ask(here, "GET", href[:-1] + ("0" if href[-1] != "0" else "1"))).status == 404
    assert (await ask(here, "PUT", href)).status == 405
    assert (await ask(here, "GET", "/-/jobs/none")).status == 404


async def test_a_waiting_job_can_be_cancelled_and_never_runs(here: Stage, valkey_url: str) -> None:
    first, second = [(await ask(here, "POST", f"/exports/{n}")).json["href"] for n in range(2)]
    cancelled = await ask(here, "DELETE", first)
    assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
    assert (await ask(here, "DELETE", first)).status == 200  # again
    assert (await ask(here, "GET", second)).json["position"] == 1
    buy(valkey_url)
    await until_job(here, second, "done")
    assert b"/exports/0" not in here.upstream.received
    late = await ask(here, "DELETE", second)
    assert (late.status, late.json["title"]) == (409, "Too late to cancel")


async def test_after_a_cancelled_job_its_account_is_due_at_once(
    here: Stage, valkey_url: str
) -> None:
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    with redis.Redis.from_url(valkey_url) as client:
        [accounts] = client.keys("qs:{jobs}:*:accounts")
        client.zadd(accounts, {"acme": time.time() * MICRO + 3_600 * MICRO})  # when it would fit
        assert (await ask(here, "DELETE", href)).status == 200
        async with asyncio.timeout(ROOM):
            while client.zscore(accounts, "acme") is not None:  # until it is found to have no job
                await asyncio.sleep(0.01)


async def test_an_idempotency_key_names_one_job(here: Stage, valkey_url: str) -> None:
    once = {"Idempotency_Key": '"order-1"'}
    first = await ask(here, "POST", "/exports/1", b"x", **once)
    again = await ask(here, "POST", "/exports/1", b"x", **once)
    assert (first.status, again.status) == (202, 202)
    assert first.headers["location"] == again.headers["location"]
    other = await ask(here, "POST", "/exports/1", b"y", **once)
    assert (other.status, other.json["title"]) == (422, "Idempotency-Key used before")
    assert (await ask(here, "POST", "/exports/1", b"y", Idempotency_Key="order-2")).status == 202
    buy(valkey_url, units=9)
    await until_job(here, first.headers["location"], "done")
    # The quota has room now, and the key still names the job that has run.
    after = await ask(here, "POST", "/exports/1", b"x", **once)
    assert (after.status, after.headers["location"]) == (202, first.headers["location"])
    assert after.json["state"] == "done"
    seen = bytes(here.upstream.received)
    assert seen.count(b'Idempotency-Key: "order-1"\r\n') == 1


async def test_a_job_without_an_idempotency_key_sends_its_id(here: Stage, valkey_url: str) -> None:
    job = (await ask(here, "POST", "/exports/1", Prefer="respond-async, handling=lenient")).json
    buy(valkey_url)
    await until_job(here, job["href"], "done")
    assert b'Idempotency-Key: "%b"\r\n' % job["id"].encode() in here.upstream.received
    assert b"Prefer: handling=lenient\r\n" in here.upstream.received


async def test_a_full_job_queue_is_a_429_that_names_it(stage: StartStage) -> None:
    here = await a_stage(stage, jobs_per_account="2", jobs_in_all="3")
    for number in range(2):
        assert (await ask(here, "POST", f"/exports/{number}")).status == 202
    full = await ask(here, "POST", "/exports/2")
    assert full.status == 429
    assert full.json["title"] == "Too many deferred jobs"
    assert "job queue of account acme is full" in full.json["detail"]
    assert full.json["limit"]["id"] == "monthly"
    assert [step["action"] for step in full.json["how_to_fix"]][:2] == ["wait_or_cancel", "wait"]
    assert int(full.headers["retry-after"]) > 0
    assert (await ask(here, "GET", "/first", key="other")).status == 200
    assert (await ask(here, "POST", "/exports/3", key="other")).status == 202
    all_full = await ask(here, "POST", "/exports/4", key="other")
    assert (all_full.status, all_full.json["title"]) == (429, "Too many deferred jobs")
    assert "of all accounts" in all_full.json["detail"]


async def test_a_request_that_cannot_be_stored_is_refused_by_its_limit(stage: StartStage) -> None:
    here = await a_stage(stage, job_body_bytes="10")
    large = await ask(here, "POST", "/exports/1", b"eleven byte")
    assert (large.status, large.json["title"]) == (429, "Monthly quota used up")
    chunked = await here.raw(
        b"POST /exports/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nb\r\neleven byte\r\n0\r\n\r\n"
    )
    assert b" 429 " in chunked.split(b"\r\n")[0]
    never = await ask(here, "POST", "/huge")
    assert (never.status, never.json["how_to_fix"][0]["action"]) == (429, "upgrade")
    off = await a_stage(stage, used_up=False, jobs="off")
    assert (await ask(off, "POST", "/exports/1")).status == 429


async def test_a_chunked_body_is_stored_and_sent_whole(here: Stage, valkey_url: str) -> None:
    accepted = await here.raw(
        b"POST /exports/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nExpect: 100-continue\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    )
    assert accepted.startswith((b"HTTP/1.1 100", b"HTTP/1.1 202"))
    buy(valkey_url)
    async with asyncio.timeout(ROOM):
        while b"\r\n\r\nabcde" not in here.upstream.received:
            await asyncio.sleep(0.01)
    assert b"Content-Length: 5\r\n" in here.upstream.received


async def test_a_long_response_is_cut_at_its_bound(stage: StartStage, valkey_url: str) -> None:
    here = await a_stage(stage, job_result_bytes="4")
    here.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\xff12345"
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    buy(valkey_url)
    result = (await until_job(here, href, "done"))["result"]
    assert (result["body"], result["body_encoding"]) == ("/zEyMw==", "base64")
    assert result["truncated"]


async def test_the_job_of_a_revoked_key_fails(here: Stage, valkey_url: str) -> None:
    with Admin(valkey_url, "qs") as admin:
        key_id, secret = admin.create_key("acme", random_bytes=lambda size: bytes(range(size)))
        accepted = await ask(here, "POST", "/exports/1", key=secret)
        assert accepted.status == 202
        admin.revoke_key("acme", key_id)
    buy(valkey_url)
    job = await until_job(here, accepted.json["href"], "failed")
    assert job["reason"] == "key-revoked"
    assert b"/exports" not in here.upstream.received


async def test_jobs_wait_for_a_free_slot(stage: StartStage) -> None:
    here = await a_stage(stage, used_up=False)
    here.upstream.hold = True
    first = asyncio.ensure_future(ask(here, "GET", "/slow", key="slots"))
    async with asyncio.timeout(ROOM):
        while b"GET /slow" not in here.upstream.received:
            await asyncio.sleep(0.01)
    href = (await ask(here, "POST", "/exports/1", key="slots")).json["href"]
    here.upstream.hold = False
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await until_job(here, href, "done", key="slots")


async def test_jobs_run_after_a_new_plan_file_with_a_larger_quota(here: Stage) -> None:
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    here.plans.write_text(jobs_plan(quota=9))
    assert await here.app.keeper.reload()
    await until_job(here, href, "done")


async def test_an_unreachable_upstream_delays_jobs_and_costs_nothing(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage, upstream="http://127.0.0.1:1", used_up=False)
    here.plans.write_text(jobs_plan(quota=1))
    assert (await ask(here, "GET", "/spends")).status == 502
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    buy(valkey_url)
    runner = here.app.jobs.runner  # type: ignore[union-attr]
    async with asyncio.timeout(ROOM):
        while not runner._idle_until:
            await asyncio.sleep(0.01)
    job = await until_job(here, href, "waiting")
    assert job["position"] == 1
    settler = here.app.store.redis.settler
    async with asyncio.timeout(ROOM):
        while settler.pending or settler.open:
            await asyncio.sleep(0.01)
    events = [e for e in await here.events() if e["type"] == "api.request.v1"]
    assert [e["data"]["route"] for e in events] == ["rest"]
    left = await ask(here, "GET", "/spends")
    assert left.headers.get("ratelimit") is None or left.status == 502
