"""Bounds on deferred jobs, over real sockets: bytes, changes per minute, and what is stored."""

from typing import Any

import pytest
import redis

from sidecar.stores.admin import Admin
from tests.core.jobs.test_storage import CREDENTIALS
from tests.support.jobs_plan import Answer, a_stage, ask, until_job
from tests.support.stage import Stage, StartStage

LONG = "q" * 8_000
BOUND = 200_000


def buy(valkey_url: str) -> None:
    from sidecar.core.model import Account, Pack

    with Admin(valkey_url, "qs") as admin:
        admin.grant(Account("acme", "free"), Pack("boost", "monthly", "requests", 9, "month"), "g1")


def stored(valkey_url: str) -> bytes:
    """Return everything that Redis has of jobs, as one string."""
    with redis.Redis.from_url(valkey_url) as client:
        names = list(client.scan_iter("*job*"))
        records = [client.hgetall(name) for name in client.scan_iter("*:job:*")]
        return b"\n".join(names) + repr(records).encode()


def metric(here: Stage, name: str, **labels: str) -> float:
    return here.app.metrics.registry.get_sample_value(name, labels) or 0.0


def bounded(**more: str) -> dict[str, str]:
    flags = {
        "job_bytes_per_account": str(BOUND), "job_bytes_in_all": str(2 * BOUND),
        "job_body_bytes": "100000", "job_changes_per_minute": "0",
        "jobs_at_once": "0",  # a job that is tried at this instant cannot be cancelled
    }  # fmt: skip
    return flags | more


async def used_up(here: Stage, account: str) -> None:
    assert (await ask(here, "GET", "/first", key=account)).status in (200, 429)


async def test_security_02_a_cancel_loop_takes_bounded_memory(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage, **bounded())
    await used_up(here, "other")
    theirs = (await ask(here, "POST", "/exports/1", b"x", key="other")).json["href"]
    first = ""
    with redis.Redis.from_url(valkey_url) as client:
        for number in range(100):
            fields = {"Content_Type": "a/b;x=" + "y" * 20_000, "Content_Encoding": "z" * 3_000}
            job = await ask(here, "POST", f"/exports?{LONG}", b"b" * 1_000, **fields)
            assert job.status == 202
            first = first or job.json["href"]
            assert (await ask(here, "DELETE", job.json["href"])).status == 200
            if number == 70:
                before = client.info("memory")["used_memory"]
        grown = client.info("memory")["used_memory"] - before
        [name] = client.keys("qs:{acme}:jobs:*:sizes")
        assert int(client.hget(name, "total") or 0) <= BOUND
        records = list(client.scan_iter("qs:{acme}:jobs:*:job:*"))
    assert 35 < len(records) < 65  # about 4 KB each: nothing of the request is left
    assert grown < 20_000
    assert (await ask(here, "GET", first)).status == 404  # the oldest one
    assert (await ask(here, "GET", theirs, key="other")).json["state"] == "waiting"
    assert metric(here, "sidecar_jobs_dropped_total", what="job") == 100 - len(records)


async def test_I10_a_job_queue_without_bytes_is_a_429_that_names_it(stage: StartStage) -> None:
    here = await a_stage(stage, **bounded())
    for number in range(2):
        assert (await ask(here, "POST", f"/exports/{number}", b"b" * 90_000)).status == 202
    full = await ask(here, "POST", "/exports/2", b"b" * 90_000)
    assert (full.status, full.json["title"]) == (429, "Too many deferred jobs")
    assert "account acme is full: together, its jobs may take 200,000 bytes" in full.json["detail"]
    assert [step["action"] for step in full.json["how_to_fix"]][:2] == ["wait_or_cancel", "wait"]
    await used_up(here, "other")
    theirs = await ask(here, "POST", "/exports/3", b"b" * 90_000, key="other")
    assert theirs.status == 202
    assert (await ask(here, "POST", "/exports/4", b"b" * 90_000, key="other")).status == 202
    await ask(here, "DELETE", theirs.json["href"], key="other")
    assert (await ask(here, "POST", "/exports/5", b"b" * 90_000, key="other")).status == 202


async def test_I10_all_job_queues_without_bytes_are_a_429_that_names_them(
    stage: StartStage,
) -> None:
    here = await a_stage(stage, **bounded(job_bytes_in_all=str(BOUND)))
    for number in range(2):
        assert (await ask(here, "POST", f"/exports/{number}", b"b" * 90_000)).status == 202
    await used_up(here, "other")
    full = await ask(here, "POST", "/exports/2", b"b" * 90_000, key="other")
    assert (full.status, full.json["title"]) == (429, "Too many deferred jobs")
    assert "of all accounts is full: their jobs take too many bytes" in full.json["detail"]
    assert "acme" not in str(full.json)


async def test_the_bytes_of_jobs_are_metrics(stage: StartStage, valkey_url: str) -> None:
    here = await a_stage(stage, **bounded())
    hrefs = [(await ask(here, "POST", "/exports/1", b"b" * 9_000)).json["href"] for _ in range(2)]
    await ask(here, "DELETE", hrefs[0])
    jobs = here.app.jobs
    assert jobs is not None
    jobs.runner.counts = await jobs.deferral._store.count()
    assert 9_000 < metric(here, "sidecar_jobs_bytes", state="open") < 20_000
    assert 0 < metric(here, "sidecar_jobs_bytes", state="ended") < 9_000


async def test_I10_changes_of_jobs_are_rated_per_account(stage: StartStage) -> None:
    here = await a_stage(stage, job_changes_per_minute="3", jobs_at_once="0")
    key = {"Idempotency_Key": "one"}
    href = (await ask(here, "POST", "/exports/1", **key)).json["href"]
    assert (await ask(here, "POST", "/exports/1", **key)).json["href"] == href
    assert (await ask(here, "DELETE", href)).status == 200
    for too_fast in (
        await ask(here, "POST", "/exports/2"),
        await ask(here, "POST", "/exports/1", **key),
        await ask(here, "DELETE", href),
    ):
        assert (too_fast.status, too_fast.json["title"]) == (
            429,
            "Too many changes of deferred jobs",
        )
        assert too_fast.json["type"].endswith("/job-rate")
        assert 1 <= int(too_fast.headers["retry-after"]) <= 20
    assert (await ask(here, "GET", href)).status == 200
    await used_up(here, "other")
    assert (await ask(here, "POST", "/exports/1", key="other")).status == 202


async def test_security_11_credentials_are_not_stored_whatever_their_names(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage, max_headers="200")
    fields = {name: f"SENTINEL-{name}" for name in CREDENTIALS if name != "Authorization"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    raw = await here.raw(
        b"POST /exports/1?api_key=SENTINEL-query&a=b&X-Amz-Signature=SENTINEL-sig HTTP/1.1\r\n"
        b"Host: api.test\r\nX-Api-Key: acme\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n"
        + lines.encode() + b"\r\nx"
    )  # fmt: skip
    assert raw.startswith(b"HTTP/1.1 202 ")
    document = Answer(202, {}, raw.partition(b"\r\n\r\n")[2]).json
    assert document["target"] == "/exports/1?a=b"
    assert document["parameters_not_stored"] == ["api_key", "X-Amz-Signature"]
    assert {"dpop", "phpsessid", "x-authtoken"} <= set(document["fields_not_stored"])
    assert b"SENTINEL" not in stored(valkey_url)
    assert b"text/plain" in stored(valkey_url)
    buy(valkey_url)
    await until_job(here, document["href"], "done")
    assert b"POST /exports/1?a=b HTTP/1.1\r\n" in here.upstream.received
    assert b"SENTINEL" not in here.upstream.received


async def test_a_credential_of_a_response_is_not_stored(stage: StartStage, valkey_url: str) -> None:
    here = await a_stage(stage)
    here.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nX-Vault-Tok: hush\r\nSet-Cookie: a=hush\r\nDPoP-Nonce: hush\r\n"
        b'ETag: "v1"\r\nContent-Length: 2\r\n\r\nok'
    )
    href = (await ask(here, "POST", "/exports/1")).json["href"]
    buy(valkey_url)
    result = (await until_job(here, href, "done"))["result"]
    assert result["headers"]["etag"] == ['"v1"']
    assert "hush" not in str(result)
    assert b"hush" not in stored(valkey_url)


async def test_I10_a_query_with_a_credential_is_not_deferred_if_the_setting_says_so(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage, job_query_credentials="refuse", job_parameters="key")
    refused = await ask(here, "POST", "/exports/1?token=hush&sig=hush&a=b")
    assert (refused.status, refused.json["title"]) == (429, "Monthly quota used up")
    assert "was not deferred" in refused.json["detail"]
    assert "(token, sig)" in refused.json["detail"]
    assert "hush" not in str(refused.json)
    assert "move_credentials" in [step["action"] for step in refused.json["how_to_fix"]]
    assert b":job:" not in stored(valkey_url)
    accepted = await ask(here, "POST", "/exports/1?key=plain&page_token=2")
    assert accepted.json["target"] == "/exports/1?key=plain&page_token=2"


async def test_a_field_that_connection_names_is_not_stored(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage, job_fields="x-hop,x-kept")
    fields: dict[str, Any] = {"Connection": "x-hop", "X_Hop": "hop-value", "X_Kept": "kept-value"}
    assert (await ask(here, "POST", "/exports/1", **fields)).status == 202
    assert b"hop-value" not in stored(valkey_url)
    assert b"kept-value" in stored(valkey_url)


async def test_a_job_belongs_to_the_trace_of_its_request(
    stage: StartStage, valkey_url: str
) -> None:
    here = await a_stage(stage)
    trace = "0af7651916cd43dd8448eb211c80319c"
    fields = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    href = (await ask(here, "POST", "/exports/1", **fields)).json["href"]
    buy(valkey_url)
    await until_job(here, href, "done")
    sent = bytes(here.upstream.received)
    assert sent.count(b"traceparent: 00-" + trace.encode()) == 1
    assert b"b7ad6b7169203331" not in sent  # the sidecar is the parent


@pytest.mark.parametrize(
    ("lines", "detail"),
    [
        (b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n", "more than one"),
        (b"Idempotency-Key: a\r\nidempotency-key: a\r\n", "more than one"),
        (b"Idempotency-Key: %b\r\n" % (b"k" * 257), "longer than 256 bytes"),
        (b"Idempotency-Key: %b\r\n" % (b"k" * 4_000), "longer than 256 bytes"),
        (b"Idempotency-Key: \r\n", "empty"),
    ],
)
@pytest.mark.parametrize("fits", [True, False])
async def test_limits_17_an_idempotency_key_that_cannot_be_kept_is_a_400(
    stage: StartStage, valkey_url: str, lines: bytes, detail: str, fits: bool
) -> None:
    here = await a_stage(stage, used_up=not fits)
    raw = await here.raw(
        b"POST /exports/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: acme\r\nContent-Length: 1\r\n"
        + lines + b"\r\nx"
    )  # fmt: skip
    assert raw.startswith(b"HTTP/1.1 400 ")
    problem = Answer(400, {}, raw.partition(b"\r\n\r\n")[2]).json
    assert detail in problem["detail"]
    assert problem["how_to_fix"][0]["action"] == "correct_key"
    assert b":job:" not in stored(valkey_url)
    assert b"/exports" not in here.upstream.received


async def test_the_idempotency_key_of_a_request_that_cannot_be_deferred_is_the_apis(
    stage: StartStage,
) -> None:
    here = await a_stage(stage, used_up=False)
    long = "k" * 300
    assert (await ask(here, "POST", "/items", Idempotency_Key=long)).status == 200
    assert long.encode() in here.upstream.received
    fields = {"Idempotency_Key": long, "Prefer": "respond-async"}
    assert (await ask(here, "POST", "/items", **fields)).status == 400
    longest = await ask(here, "POST", "/exports/1", Idempotency_Key="k" * 256)
    again = await ask(here, "POST", "/exports/1", Idempotency_Key="k" * 256)
    assert (longest.status, again.json["href"]) == (202, longest.json["href"])
