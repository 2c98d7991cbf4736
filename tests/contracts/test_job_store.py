"""The contract of `ports.JobStore`, on one server, a cluster and the oldest Redis."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import pytest

from sidecar.core.jobs.job import (
    AcceptedJob,
    ClaimedJob,
    IdempotencyKey,
    Job,
    JobOutcome,
    JobRefusal,
    JobRequest,
    JobResult,
    JobState,
)
from sidecar.core.kinds import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.ports import JobStore
from sidecar.stores import Wire, connect
from sidecar.stores.job_terms import JobTerms
from sidecar.stores.jobs import RedisJobs
from tests.support.servers import free_port
from tests.support.stores.binaries import binaries
from tests.support.stores.site import a_site, cluster_ports

TERMS = JobTerms(per_account=3, in_all=5, max_age_s=3_600, result_ttl_s=600, webhooks=True)
DONE = JobOutcome(JobState.DONE, "ok")
BRIEF = JobTerms(per_account=3, in_all=5, max_age_s=0, result_ttl_s=600, lease_s=0, webhooks=True)
MONTH_US = 30 * 86_400 * MICRO

Open = Callable[[JobTerms], JobStore]


def url_of_one(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("valkey_url")


def url_of_a_cluster(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.getfixturevalue("cluster").url


def url_of_the_oldest(_request: pytest.FixtureRequest) -> Iterator[str]:
    oldest = min(binaries(), key=lambda one: (one.name.split()[0] != "Redis", one.version))
    with a_site(oldest) as site:
        port = cluster_ports(1)[0]
        site.start(port)
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(params=[url_of_one, url_of_a_cluster, url_of_the_oldest])
async def open_store(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    with contextmanager(request.param)(request) as url:
        wire = connect(url, timeout_s=10)
        await wire.start()
        yield lambda terms: RedisJobs(wire, "qs", "shop", terms)
        await wire.stop()


@pytest.fixture
def store(open_store: Open) -> JobStore:
    return open_store(TERMS)


@pytest.fixture
def brief(open_store: Open) -> JobStore:
    """A store of the same jobs, for which every lease has ended and every job is too old."""
    return open_store(BRIEF)


def a_job(number: int, account: str = "acme", body: bytes = b"\xff\r\n\0") -> Job:
    request = JobRequest(
        "POST", b"/exports/1?x=%20", b"api.test", "10.0.0.1",
        ((b"x-one", b"X-One: 1\r\n"), (b"x-two", b"X-Two:  a: b\r\n")), body,
        b"text/plain", b"gzip",
    )  # fmt: skip
    return Job(
        id=f"0199-{number}", account=account, key="k1", digest=b"\x01" * 32,
        delivery="at-least-once", method=request.method, target=request.target, request=request,
    )  # fmt: skip


async def put(store: JobStore, number: int, account: str = "acme") -> Job:
    job = a_job(number, account)
    assert await store.add(job, None, due_in_us=0) == AcceptedJob(job.id)
    return job


async def claimed(store: JobStore, owner: str, account: str = "acme") -> ClaimedJob:
    found = await store.claim(account, owner)
    assert isinstance(found, ClaimedJob)
    return found


async def test_a_job_is_stored_without_changes(store: JobStore) -> None:
    job = await put(store, 1)
    found = await store.find("acme", job.id)
    assert found is not None
    assert (found.position, found.job.state, found.job.tries) == (1, JobState.WAITING, 0)
    assert found.job.accepted_us > 0
    assert found.job.request is None  # reading a job does not need it
    run = await claimed(store, "me")
    assert run.job.request == job.request
    assert (run.job.digest, run.job.delivery, run.job.key) == (job.digest, "at-least-once", "k1")
    assert (run.job.state, run.job.tries, run.orphan) == (JobState.RUNNING, 1, False)


async def test_jobs_belong_to_their_account(store: JobStore) -> None:
    job = await put(store, 1)
    assert await store.find("other", job.id) is None
    assert await store.claim("other", "me") == 0
    outcome = JobOutcome(JobState.CANCELLED, "cancelled")
    assert await store.end("other", job.id, "", outcome) is None
    assert (await store.count()).open == 1


async def test_jobs_are_claimed_in_order_and_requeued_in_place(
    store: JobStore,
) -> None:
    jobs = [await put(store, number) for number in range(3)]
    first = await claimed(store, "a")
    assert first.job.id == jobs[0].id
    assert await store.requeue(first.job, "a")
    again = await claimed(store, "b")
    assert (again.job.id, again.job.tries, again.orphan) == (jobs[0].id, 1, False)
    second = await claimed(store, "c")
    assert second.job.id == jobs[1].id
    third = await store.find("acme", jobs[2].id)
    assert third is not None
    assert third.position == 3
    await store.end("acme", jobs[0].id, "b", JobOutcome(JobState.DONE, "ok"))
    third = await store.find("acme", jobs[2].id)
    assert third is not None
    assert third.position == 2


async def test_a_job_has_one_owner(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    assert await store.claim("acme", "other") == 1
    assert not await store.renew(job, "other")
    assert not await store.requeue(job, "other")
    outcome = JobOutcome(JobState.DONE, "ok")
    assert await store.end("acme", job.id, "other", outcome) is JobState.RUNNING
    assert await store.renew(job, "me")
    assert await store.end("acme", job.id, "me", outcome) is JobState.DONE
    assert not await store.renew(job, "me")


async def test_a_job_whose_lease_has_ended_can_be_claimed_again(
    store: JobStore, brief: JobStore
) -> None:
    job = await put(store, 1)
    await claimed(store, "dead")
    run = await claimed(brief, "alive")
    assert (run.job.id, run.orphan, run.job.tries) == (job.id, True, 2)
    late = JobOutcome(JobState.DONE, "ok")
    assert await store.end("acme", job.id, "dead", late) is JobState.RUNNING
    assert await store.end("acme", job.id, "alive", late) is JobState.DONE


async def test_an_ended_job_has_its_result_and_no_request(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    result = JobResult(201, ((b"x-a", b"X-A: b\r\n"),), b"\x00\xfe", truncated=True)
    outcome = JobOutcome(JobState.DONE, "ok", result)
    assert await store.end("acme", job.id, "me", outcome) is JobState.DONE
    found = await store.find("acme", job.id)
    assert found is not None
    assert (found.position, found.job.result, found.job.reason) == (0, result, "ok")
    assert found.job.ended_us >= found.job.started_us >= found.job.accepted_us > 0
    assert await store.claim("acme", "me") == 0
    assert (await store.count()).open == 0


async def test_only_a_waiting_job_can_be_cancelled(store: JobStore) -> None:
    first, second = await put(store, 1), await put(store, 2)
    outcome = JobOutcome(JobState.CANCELLED, "cancelled")
    await claimed(store, "me")
    assert await store.end("acme", first.id, "", outcome) is JobState.RUNNING
    assert await store.end("acme", second.id, "", outcome) is JobState.CANCELLED
    assert await store.end("acme", second.id, "", outcome) is JobState.CANCELLED
    assert await store.claim("acme", "other") == 1


async def test_I9_the_number_of_open_jobs_is_bounded(store: JobStore) -> None:
    for number in range(3):
        await put(store, number)
    assert await store.add(a_job(9), None, due_in_us=0) is JobRefusal.FULL
    for number in range(2):
        await put(store, number, "other")
    assert await store.add(a_job(9, "third"), None, due_in_us=0) is JobRefusal.ALL_FULL
    assert (await store.count()).open == 5
    assert await store.find("acme", a_job(9).id) is None


BODY = 20_000  # bytes of a large body
SMALL = replace(TERMS, per_account=99, in_all=99, bytes_per_account=75_000, bytes_in_all=100_000)
NO_RESULT = JobOutcome(JobState.CANCELLED, "cancelled")


def large_result(size: int = BODY) -> JobOutcome:
    return JobOutcome(JobState.DONE, "ok", JobResult(200, (), b"r" * size))


async def put_large(store: JobStore, number: int, account: str = "acme") -> AcceptedJob:
    accepted = await store.add(a_job(number, account, b"b" * BODY), None, due_in_us=0)
    assert isinstance(accepted, AcceptedJob)
    return accepted


async def run_large(store: JobStore, number: int, account: str = "acme") -> None:
    """Queue, run and end a job with a large result."""
    await put_large(store, number, account)
    run = await claimed(store, "me", account)
    assert await store.end(account, run.job.id, "me", large_result()) is JobState.DONE


async def results(store: JobStore, account: str, count: int) -> str:
    """Return what is stored of an account's jobs: r(esult), s(tub), or - for nothing."""
    found = [await store.find(account, f"0199-{number}") for number in range(count)]
    return "".join("-" if one is None else "r" if one.job.result else "s" for one in found)


async def test_I9_the_bytes_of_an_accounts_open_jobs_are_bounded(open_store: Open) -> None:
    store = open_store(SMALL)
    for number in range(3):
        await put_large(store, number)
    before = await store.count()
    full = await store.add(a_job(3, body=b"b" * BODY), None, due_in_us=0)
    assert full is JobRefusal.FULL_BYTES
    after = await store.count()
    assert (after.open, after.stored_bytes) == (3, before.stored_bytes)  # nothing has changed
    assert before.stored_bytes == before.open_bytes <= SMALL.bytes_per_account
    huge = await store.add(a_job(4, body=b"b" * 75_000), None, due_in_us=0)
    assert huge is JobRefusal.TOO_LARGE
    await put(store, 5)  # a small one fits


async def test_I9_the_bytes_of_the_open_jobs_of_all_accounts_are_bounded(open_store: Open) -> None:
    store = open_store(SMALL)
    for number in range(4):
        await put_large(store, number, "acme" if number % 2 else "other")
    before = await store.count()
    full = await store.add(a_job(5, "third", b"b" * BODY), None, due_in_us=0)
    assert full is JobRefusal.ALL_FULL_BYTES
    after = await store.count()
    assert (after.open, after.stored_bytes) == (4, before.stored_bytes)
    await put(store, 6, "third")


async def test_I9_ended_jobs_of_an_account_make_room_oldest_results_first(
    open_store: Open,
) -> None:
    store = open_store(SMALL)
    for number in range(3):
        await run_large(store, number)
    assert await results(store, "acme", 3) == "rrr"
    await put_large(store, 3)
    assert await results(store, "acme", 3) == "srr"
    stub = await store.find("acme", "0199-0")
    assert stub is not None
    assert (stub.job.state, stub.job.reason, stub.job.result_dropped) == ("done", "ok", True)
    for number in range(4, 6):
        await put_large(store, number)
    assert await results(store, "acme", 3) == "--s"  # then the jobs, the oldest first
    assert (await store.count()).stored_bytes <= SMALL.bytes_per_account


async def test_I9_ended_jobs_without_results_are_dropped_with_their_idempotency_keys(
    open_store: Open,
) -> None:
    store = open_store(SMALL)
    total = 60
    for number in range(total):
        key = IdempotencyKey(f"{number}" * 8, "print")
        assert isinstance(await store.add(a_job(number), key, due_in_us=0), AcceptedJob)
        await store.end("acme", f"0199-{number}", "", NO_RESULT)
    left = await results(store, "acme", total)
    assert left.lstrip("-") == "s" * left.count("s")  # the oldest are dropped first
    assert 0 < left.count("s") < total
    assert await store.find_by_key("acme", "0" * 8) is None
    assert await store.find_by_key("acme", f"{total - 1}" * 8) is not None
    counts = await store.count()
    assert (counts.open, counts.open_bytes) == (0, 0)
    assert 0 < counts.stored_bytes <= SMALL.bytes_per_account


async def test_I9_ended_jobs_of_all_accounts_make_room(open_store: Open) -> None:
    store = open_store(SMALL)
    for number, account in enumerate(("a", "b", "a", "b")):
        await run_large(store, number, account)
    await put_large(store, 9, "c")
    assert await results(store, "a", 3) == "s-r"  # the oldest result of all
    assert await results(store, "b", 4) == "-r-r"
    assert (await store.count()).stored_bytes <= SMALL.bytes_in_all
    for number in range(3):
        await run_large(store, number, "d")
    counts = await store.count()
    assert counts.stored_bytes <= SMALL.bytes_in_all
    assert counts.open_bytes < counts.stored_bytes


async def test_I9_a_result_beyond_the_bytes_of_its_account_is_dropped(open_store: Open) -> None:
    store = open_store(SMALL)
    job = await put(store, 0)
    await claimed(store, "me")
    assert await store.end("acme", job.id, "me", large_result(80_000)) is JobState.DONE
    assert await results(store, "acme", 1) == "s"
    assert (await store.count()).stored_bytes < BODY


async def test_an_ended_job_counts_until_it_expires(open_store: Open) -> None:
    store = open_store(SMALL)
    for number in range(2):
        await run_large(store, number)
    assert (await store.count()).stored_bytes > 2 * BODY
    expired = open_store(replace(SMALL, result_ttl_s=0))
    assert (await expired.count()).stored_bytes == 0
    await put_large(expired, 2)  # forgets those of its account
    assert (await expired.count()).stored_bytes < 2 * BODY


async def test_the_end_of_a_job_can_be_repeated(open_store: Open) -> None:
    """The first attempt may have failed after it had ended the job."""
    store = open_store(SMALL)
    job = await put(store, 0)
    await claimed(store, "me")
    for _ in range(2):
        assert await store.end("acme", job.id, "me", large_result()) is JobState.DONE
    counts = await store.count()
    assert (counts.open, counts.open_bytes) == (0, 0)
    assert counts.stored_bytes > BODY


async def test_the_changes_of_an_account_are_rated(open_store: Open) -> None:
    store = open_store(replace(TERMS, changes_per_minute=2))
    assert [await store.count_change("acme") for _ in range(2)] == [0, 0]
    for _ in range(2):  # a refused change does not count
        assert 0 < await store.count_change("acme") <= 30 * MICRO
    assert await store.count_change("other") == 0
    free = open_store(replace(TERMS, changes_per_minute=0))
    assert await free.count_change("acme") == 0


async def test_an_idempotency_key_belongs_to_one_request(store: JobStore) -> None:
    key = IdempotencyKey("n" * 64, "print-1")
    assert await store.find_by_key("acme", key.digest) is None
    assert await store.add(a_job(1), key, due_in_us=0) == AcceptedJob("0199-1")
    assert await store.add(a_job(2), key, due_in_us=0) == AcceptedJob("0199-1", existing=True)
    other = IdempotencyKey(key.digest, "print-2")
    assert await store.add(a_job(3), other, due_in_us=0) is JobRefusal.OTHER_REQUEST
    assert await store.find_by_key("acme", key.digest) == ("0199-1", "print-1")
    assert await store.find_by_key("other", key.digest) is None
    assert (await store.count()).open == 1
    for number in range(4):
        await put(store, number, "other" if number else "third")
    assert await store.add(a_job(5), key, due_in_us=0) == AcceptedJob("0199-1", existing=True)


async def test_a_due_account_is_taken_by_one_sidecar(
    store: JobStore,
) -> None:
    await put(store, 1)
    await store.add(a_job(1, "later"), None, due_in_us=MONTH_US)
    [due] = await store.take_due_accounts(10)
    assert due.name == "acme"
    assert due.hidden_until_us > due.now_us
    assert await store.take_due_accounts(10) == []  # it is hidden
    await store.schedule(due, 0)
    [due] = await store.take_due_accounts(10)
    await store.schedule(due, MONTH_US)
    assert await store.take_due_accounts(10) == []
    await store.wake("acme")
    await store.wake("unknown")
    [due] = await store.take_due_accounts(10)
    await store.schedule(due, None)
    await store.wake("acme")
    assert await store.take_due_accounts(10) == []


async def test_an_account_that_was_woken_during_a_try_stays_due(store: JobStore) -> None:
    await put(store, 1)
    [due] = await store.take_due_accounts(10)
    await store.wake("acme")  # a grant was bought during the try
    await store.schedule(due, MONTH_US)
    assert [item.name for item in await store.take_due_accounts(10)] == ["acme"]


async def test_all_accounts_can_be_woken(store: JobStore) -> None:
    await store.wake_all()  # without accounts
    await put(store, 1)
    [due] = await store.take_due_accounts(10)
    await store.schedule(due, MONTH_US)
    assert await store.take_due_accounts(10) == []
    await store.wake_all()
    assert [item.name for item in await store.take_due_accounts(10)] == ["acme"]


async def test_the_oldest_and_overdue_jobs_are_listed(store: JobStore, brief: JobStore) -> None:
    assert (await store.count())[1:] == (0, 0, 0, (), 0, 0)
    jobs = [await put(store, 1), await put(store, 1, "other/with")]
    await claimed(store, "me")
    counts = await store.count()
    assert (counts.open, counts.running, counts.overdue) == (2, 1, ())
    assert 0 < counts.oldest_us <= counts.now_us
    members = {(job.id, job.account) for job in jobs}
    assert set(await store.list_open(10)) == members
    assert len(await store.list_open(1)) == 1
    assert set((await brief.count()).overdue) == members


async def test_a_webhook_is_taken_by_one_sidecar_until_it_is_delivered(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    assert await store.take_due_webhooks(10) == []
    await store.end("acme", job.id, "me", JobOutcome(JobState.DONE, "ok"))
    [due] = await store.take_due_webhooks(10)
    assert due.name == f"{job.id}/acme"
    assert await store.take_due_webhooks(10) == []
    await store.schedule_webhook(due, 0)
    [due] = await store.take_due_webhooks(10)
    await store.schedule_webhook(due, None)
    assert await store.take_due_webhooks(10) == []


async def test_an_end_that_is_repeated_sends_no_second_webhook(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    await store.end("acme", job.id, "me", DONE)
    [due] = await store.take_due_webhooks(10)
    await store.schedule_webhook(due, None)
    await store.end("acme", job.id, "me", DONE)
    assert await store.take_due_webhooks(10) == []


async def test_a_job_that_was_given_back_or_has_ended_does_not_run(store: JobStore) -> None:
    job = await put(store, 1)
    for ended in (False, True):
        await claimed(store, "me")
        assert (await store.count()).running == 1
        await (store.end("acme", job.id, "me", DONE) if ended else store.requeue(job, "me"))
        assert (await store.count()).running == 0


async def test_I9_a_job_that_was_refused_takes_no_room(store: JobStore) -> None:
    for number in range(TERMS.per_account):
        await put(store, number)
    before = await store.count()
    assert await store.add(a_job(9), None, due_in_us=0) is JobRefusal.FULL
    after = await store.count()
    assert after._replace(now_us=0) == before._replace(now_us=0)


async def test_jobs_of_other_workloads_are_not_found(valkey_url: str) -> None:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    try:
        shop, bank = (RedisJobs(wire, "qs", name, TERMS) for name in ("shop", "bank"))
        job = await put(shop, 1)
        assert await bank.find("acme", job.id) is None
        assert await bank.take_due_accounts(10) == []
        assert await bank.claim("acme", "me") == 0
    finally:
        await wire.stop()


@asynccontextmanager
async def without_a_store() -> AsyncIterator[JobStore]:
    wire = Wire(f"redis://127.0.0.1:{free_port()}/0")
    await wire.start()
    yield RedisJobs(wire, "qs", "shop", TERMS)
    await wire.stop()


async def test_without_a_store_every_method_raises() -> None:
    async with without_a_store() as store:
        job = a_job(1)
        for ask in (
            store.add(job, None, due_in_us=0), store.find_by_key("a", "n"), store.find("a", "1"),
            store.take_due_accounts(1), store.claim("a", "me"), store.renew(job, "me"),
            store.requeue(job, "me"), store.wake("a"), store.count(), store.take_due_webhooks(1),
            store.list_open(1), store.count_change("a"),
            store.end("a", "1", "", JobOutcome(JobState.CANCELLED, "cancelled")),
        ):  # fmt: skip
            with pytest.raises(StoreUnavailable):
                await ask
