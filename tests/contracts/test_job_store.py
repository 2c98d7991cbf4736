"""The promise of `ports.JobStore`: all of its tests, on one server, a cluster and an old Redis."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest

from sidecar.core.jobs.job import (
    Accepted,
    Claimed,
    Job,
    JobCall,
    JobState,
    NotAccepted,
    Once,
    Over,
    Result,
)
from sidecar.core.model import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.ports import JobStore
from sidecar.stores import Wire, connect
from sidecar.stores.jobs import JobTerms, RedisJobs
from tests.support.servers import free_port
from tests.support.stores.binaries import binaries
from tests.support.stores.site import a_site, cluster_ports

TERMS = JobTerms(per_account=3, in_all=5, max_age_s=3_600, result_ttl_s=600, told=True)
BRIEF = JobTerms(per_account=3, in_all=5, max_age_s=0, result_ttl_s=600, lease_s=0, told=True)
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
    """The same jobs, for one to whom every lease is over and every job too old."""
    return open_store(BRIEF)


def a_job(number: int, account: str = "acme", body: bytes = b"\xff\r\n\0") -> Job:
    call = JobCall(
        "POST", b"/exports/1?x=%20", b"api.test", "10.0.0.1",
        ((b"x-one", b"X-One: 1\r\n"), (b"x-two", b"X-Two:  a: b\r\n")), body,
        b"text/plain", b"gzip",
    )  # fmt: skip
    return Job(
        id=f"0199-{number}", account=account, key="k1", digest=b"\x01" * 32,
        delivery="at-least-once", method=call.method, target=call.target, call=call,
    )  # fmt: skip


async def put(store: JobStore, number: int, account: str = "acme") -> Job:
    job = a_job(number, account)
    assert await store.add(job, None, look_in_us=0) == Accepted(job.id)
    return job


async def claimed(store: JobStore, owner: str, account: str = "acme") -> Claimed:
    found = await store.claim(account, owner)
    assert isinstance(found, Claimed)
    return found


async def test_a_job_is_kept_as_it_was_given(store: JobStore) -> None:
    job = await put(store, 1)
    found = await store.find("acme", job.id)
    assert found is not None
    assert (found.position, found.job.state, found.job.tries) == (1, JobState.WAITING, 0)
    assert found.job.accepted_us > 0
    assert found.job.call is None  # nobody needs it to look
    run = await claimed(store, "me")
    assert run.job.call == job.call
    assert (run.job.digest, run.job.delivery, run.job.key) == (job.digest, "at-least-once", "k1")
    assert (run.job.state, run.job.tries, run.orphan) == (JobState.RUNNING, 1, False)


async def test_jobs_are_of_their_account(store: JobStore) -> None:
    job = await put(store, 1)
    assert await store.find("other", job.id) is None
    assert await store.claim("other", "me") == 0
    over = Over(JobState.CANCELLED, "cancelled")
    assert await store.end("other", job.id, "", over) is None
    assert (await store.count()).open == 1


async def test_jobs_come_in_order_and_what_is_given_back_keeps_its_place(store: JobStore) -> None:
    jobs = [await put(store, number) for number in range(3)]
    first = await claimed(store, "a")
    assert first.job.id == jobs[0].id
    assert await store.give_back(first.job, "a")
    again = await claimed(store, "b")
    assert (again.job.id, again.job.tries, again.orphan) == (jobs[0].id, 1, False)
    second = await claimed(store, "c")
    assert second.job.id == jobs[1].id
    third = await store.find("acme", jobs[2].id)
    assert third is not None
    assert third.position == 3
    await store.end("acme", jobs[0].id, "b", Over(JobState.DONE, "ok"))
    third = await store.find("acme", jobs[2].id)
    assert third is not None
    assert third.position == 2


async def test_a_job_has_one_owner(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    assert await store.claim("acme", "other") == 1
    assert not await store.keep(job, "other")
    assert not await store.give_back(job, "other")
    over = Over(JobState.DONE, "ok")
    assert await store.end("acme", job.id, "other", over) is JobState.RUNNING
    assert await store.keep(job, "me")
    assert await store.end("acme", job.id, "me", over) is JobState.DONE
    assert not await store.keep(job, "me")


async def test_the_job_of_an_owner_that_is_gone_is_anothers(
    store: JobStore, brief: JobStore
) -> None:
    job = await put(store, 1)
    await claimed(store, "dead")
    run = await claimed(brief, "alive")
    assert (run.job.id, run.orphan, run.job.tries) == (job.id, True, 2)
    late = Over(JobState.DONE, "ok")
    assert await store.end("acme", job.id, "dead", late) is JobState.RUNNING
    assert await store.end("acme", job.id, "alive", late) is JobState.DONE


async def test_what_became_of_a_job_is_kept_and_its_call_is_not(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    result = Result(201, ((b"x-a", b"X-A: b\r\n"),), b"\x00\xfe", truncated=True)
    over = Over(JobState.DONE, "ok", result)
    assert await store.end("acme", job.id, "me", over) is JobState.DONE
    found = await store.find("acme", job.id)
    assert found is not None
    assert (found.position, found.job.result, found.job.reason) == (0, result, "ok")
    assert found.job.ended_us >= found.job.started_us >= found.job.accepted_us > 0
    assert await store.claim("acme", "me") == 0
    assert (await store.count()).open == 0


async def test_only_a_job_that_waits_can_be_cancelled(store: JobStore) -> None:
    first, second = await put(store, 1), await put(store, 2)
    over = Over(JobState.CANCELLED, "cancelled")
    await claimed(store, "me")
    assert await store.end("acme", first.id, "", over) is JobState.RUNNING
    assert await store.end("acme", second.id, "", over) is JobState.CANCELLED
    assert await store.end("acme", second.id, "", over) is JobState.CANCELLED
    assert await store.claim("acme", "other") == 1


async def test_I9_there_are_as_many_jobs_as_may_be(store: JobStore) -> None:
    for number in range(3):
        await put(store, number)
    assert await store.add(a_job(9), None, look_in_us=0) is NotAccepted.FULL
    for number in range(2):
        await put(store, number, "other")
    assert await store.add(a_job(9, "third"), None, look_in_us=0) is NotAccepted.ALL_FULL
    assert (await store.count()).open == 5
    assert await store.find("acme", a_job(9).id) is None


async def test_an_idempotency_key_is_for_one_call(store: JobStore) -> None:
    once = Once("n" * 64, "print-1")
    assert await store.known("acme", once.name) is None
    assert await store.add(a_job(1), once, look_in_us=0) == Accepted("0199-1")
    assert await store.add(a_job(2), once, look_in_us=0) == Accepted("0199-1", known=True)
    other = Once(once.name, "print-2")
    assert await store.add(a_job(3), other, look_in_us=0) is NotAccepted.OTHER_CALL
    assert await store.known("acme", once.name) == ("0199-1", "print-1")
    assert await store.known("other", once.name) is None
    assert (await store.count()).open == 1
    for number in range(4):
        await put(store, number, "other" if number else "third")
    assert await store.add(a_job(5), once, look_in_us=0) == Accepted("0199-1", known=True)


async def test_an_account_is_looked_at_when_it_is_due_and_by_one(
    store: JobStore,
) -> None:
    await put(store, 1)
    await store.add(a_job(1, "later"), None, look_in_us=MONTH_US)
    [turn] = await store.take(10)
    assert turn.who == "acme"
    assert turn.until_us > turn.now_us
    assert await store.take(10) == []  # it is hidden
    await store.next_turn(turn, 0)
    [turn] = await store.take(10)
    await store.next_turn(turn, MONTH_US)
    assert await store.take(10) == []
    await store.wake("acme")
    await store.wake("nobody")
    [turn] = await store.take(10)
    await store.next_turn(turn, None)
    await store.wake("acme")
    assert await store.take(10) == []


async def test_who_is_wanted_sooner_meanwhile_is_looked_at_sooner(store: JobStore) -> None:
    await put(store, 1)
    [turn] = await store.take(10)
    await store.wake("acme")  # a grant was bought while it was tried
    await store.next_turn(turn, MONTH_US)
    assert [turn.who for turn in await store.take(10)] == ["acme"]


async def test_all_accounts_can_be_looked_at_soon(store: JobStore) -> None:
    await store.hurry()  # without any
    await put(store, 1)
    [turn] = await store.take(10)
    await store.next_turn(turn, MONTH_US)
    assert await store.take(10) == []
    await store.hurry()
    assert [turn.who for turn in await store.take(10)] == ["acme"]


async def test_the_oldest_and_the_overdue_are_told(store: JobStore, brief: JobStore) -> None:
    assert (await store.count())[1:] == (0, 0, 0, ())
    jobs = [await put(store, 1), await put(store, 1, "other/with")]
    await claimed(store, "me")
    counts = await store.count()
    assert (counts.open, counts.running, counts.overdue) == (2, 1, ())
    assert 0 < counts.oldest_us <= counts.now_us
    members = {(job.id, job.account) for job in jobs}
    assert set(await store.open_ones(10)) == members
    assert len(await store.open_ones(1)) == 1
    assert set((await brief.count()).overdue) == members


async def test_an_end_is_told_once_by_one(store: JobStore) -> None:
    job = await put(store, 1)
    await claimed(store, "me")
    assert await store.untold(10) == []
    await store.end("acme", job.id, "me", Over(JobState.DONE, "ok"))
    [turn] = await store.untold(10)
    assert turn.who == f"{job.id}/acme"
    assert await store.untold(10) == []
    await store.told(turn, 0)
    [turn] = await store.untold(10)
    await store.told(turn, None)
    assert await store.untold(10) == []


async def test_jobs_of_another_workload_are_not_seen(valkey_url: str) -> None:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    try:
        shop, bank = (RedisJobs(wire, "qs", name, TERMS) for name in ("shop", "bank"))
        job = await put(shop, 1)
        assert await bank.find("acme", job.id) is None
        assert await bank.take(10) == []
        assert await bank.claim("acme", "me") == 0
    finally:
        await wire.stop()


@asynccontextmanager
async def without_a_store() -> AsyncIterator[JobStore]:
    wire = Wire(f"redis://127.0.0.1:{free_port()}/0")
    await wire.start()
    yield RedisJobs(wire, "qs", "shop", TERMS)
    await wire.stop()


def gone() -> AbstractAsyncContextManager[JobStore]:
    return without_a_store()


async def test_without_a_store_nobody_can_tell() -> None:
    async with gone() as store:
        job = a_job(1)
        for ask in (
            store.add(job, None, look_in_us=0), store.known("a", "n"), store.find("a", "1"),
            store.take(1), store.claim("a", "me"), store.keep(job, "me"), store.wake("a"),
            store.give_back(job, "me"), store.count(), store.untold(1), store.open_ones(1),
            store.end("a", "1", "", Over(JobState.CANCELLED, "cancelled")),
        ):  # fmt: skip
            with pytest.raises(StoreUnavailable):
                await ask
