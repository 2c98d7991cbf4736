"""Spans of jobs in Redis: the units of leases and of times to live."""

import redis

from sidecar.core.jobs.job import AcceptedJob, ClaimedJob, Job, JobOutcome, JobRequest, JobState
from sidecar.stores.connection.connect import Connection
from sidecar.stores.job_terms import JobNames, JobTerms, member_of
from sidecar.stores.jobs import RedisJobs

TERMS = JobTerms(max_age_s=3_600, result_ttl_s=600, lease_s=30.0)
NAMES = JobNames("qs", "shop")
JOB = Job(
    "0199-1", "acme", "k1", b"\x01" * 32, "at-least-once", "POST", b"/exports",
    request=JobRequest("POST", b"/exports", b"api.test", "10.0.0.1", (), b""),
)  # fmt: skip
ROOM = 60_000  # ms, that a slow test may need


def ttls(client: "redis.Redis", *names: str) -> list[bool]:
    """Whether each key lives for the maximum age and as long as a result after it."""
    whole = (TERMS.max_age_s + TERMS.result_ttl_s) * 1_000
    spans = [client.pttl(name) for name in names]
    return [isinstance(span, int) and whole - ROOM < span <= whole for span in spans]


async def test_I9_keys_of_jobs_live_longer_than_the_oldest_job(
    wire: Connection, valkey_url: str
) -> None:
    store = RedisJobs(wire, "qs", "shop", TERMS)
    assert await store.add(JOB, None, due_in_us=0) == AcceptedJob(JOB.id)
    with redis.Redis.from_url(valkey_url) as client:
        record = NAMES.records("acme") + JOB.id
        found = ttls(client, NAMES.queue("acme"), record, NAMES.open, NAMES.accounts, NAMES.sizes)
        assert found == [True] * 5
        claimed = await store.claim("acme", "me")
        assert isinstance(claimed, ClaimedJob)
        await store.end("acme", JOB.id, "me", JobOutcome(JobState.DONE, "ok"))
        span = client.pttl(record)
        assert isinstance(span, int)
        assert TERMS.result_ttl_s * 1_000 - ROOM < span <= TERMS.result_ttl_s * 1_000


async def test_a_claimed_job_counts_as_running_for_its_lease(
    wire: Connection, valkey_url: str
) -> None:
    store = RedisJobs(wire, "qs", "shop", TERMS)
    await store.add(JOB, None, due_in_us=0)
    with redis.Redis.from_url(valkey_url) as client:
        seconds, micros = client.time()  # type: ignore[misc]
        before_us = seconds * 1_000_000 + micros
        await store.claim("acme", "me")
        until_us = client.zscore(NAMES.running, member_of(JOB.id, "acme"))
    assert isinstance(until_us, float)
    assert 30_000_000 <= until_us - before_us < 30_000_000 + ROOM * 1_000
