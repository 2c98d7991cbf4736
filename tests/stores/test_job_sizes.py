"""Bytes of jobs: the counted sizes are those of the records, whatever happens at once."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

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
from sidecar.stores import Wire
from sidecar.stores.job_terms import OVERHEAD, JobTerms
from sidecar.stores.jobs import RedisJobs

TERMS = JobTerms(
    per_account=50, in_all=150, bytes_per_account=90_000, bytes_in_all=150_000, result_ttl_s=600
)
ACCOUNTS = ("a", "b", "c")
WORKERS = 6
ROUNDS = 40


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[RedisJobs]:
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    yield RedisJobs(wire, "qs", "shop", TERMS)
    await wire.stop()


class Program:
    """Queues jobs of random sizes, and runs, requeues or cancels them."""

    def __init__(self, store: RedisJobs, number: int, chance: random.Random) -> None:
        self.store = store
        self.owner = f"worker-{number}"
        self.chance = chance
        self.waiting: list[tuple[str, str]] = []
        self.refused: set[JobRefusal] = set()
        self.numbers = iter(range(number * 1_000, (number + 1) * 1_000))

    async def run(self) -> None:
        for _ in range(ROUNDS):
            await self.chance.choice((self.add, self.add, self.cancel, self.run_next))()

    async def add(self) -> None:
        account, job_id = self.chance.choice(ACCOUNTS), f"0199-{next(self.numbers)}"
        body = b"b" * self.chance.choice((0, 100, 5_000, 30_000))
        request = JobRequest("POST", b"/x", b"a", "10.0.0.1", (), body)
        job = Job(
            id=job_id, account=account, key="k1", digest=b"\1" * 32, delivery="at-least-once",
            method="POST", target=b"/x", request=request,
        )  # fmt: skip
        key = IdempotencyKey(job_id * 4, "print") if self.chance.random() < 0.5 else None
        accepted = await self.store.add(job, key, due_in_us=0)
        if isinstance(accepted, AcceptedJob):
            self.waiting.append((account, job_id))
        else:
            self.refused.add(accepted)

    async def cancel(self) -> None:
        if self.waiting:
            outcome = JobOutcome(JobState.CANCELLED, "cancelled")
            await self.store.end(*self.waiting.pop(0), "", outcome)

    async def run_next(self) -> None:
        account = self.chance.choice(ACCOUNTS)
        claimed = await self.store.claim(account, self.owner)
        if not isinstance(claimed, ClaimedJob):
            return
        if self.chance.random() < 0.2:
            assert await self.store.requeue(claimed.job, self.owner)
            return
        result = JobResult(200, (), b"r" * self.chance.choice((0, 10_000, 40_000, 100_000)))
        outcome = JobOutcome(JobState.DONE, "ok", result)
        await self.store.end(account, claimed.job.id, self.owner, outcome)


def record_size(record: dict[bytes, bytes]) -> int:
    return OVERHEAD + sum(len(name) + len(value) for name, value in record.items())


def counted(client: Any, name: str) -> tuple[int, dict[str, int]]:
    """Return the total, and the sizes of the jobs whose sum it is."""
    sizes = {key.decode(): int(value) for key, value in client.hgetall(name).items()}
    total, _ = sizes.pop("total", 0), sizes.pop("open", 0)
    assert total == sum(sizes.values())
    return total, sizes


@pytest.mark.parametrize("seed", range(3))
async def test_I9_sizes_are_those_of_the_records_for_any_interleaving(
    store: RedisJobs, valkey_url: str, seed: int
) -> None:
    programs = [
        Program(store, number, random.Random(f"{seed}/{number}")) for number in range(WORKERS)
    ]
    await asyncio.gather(*(program.run() for program in programs))
    refused = set().union(*(program.refused for program in programs))
    assert refused & {JobRefusal.FULL_BYTES, JobRefusal.ALL_FULL_BYTES}
    of_accounts = 0
    with redis.Redis.from_url(valkey_url) as client:
        total, sizes_of_all = counted(client, "qs:{jobs}:shop:sizes")
        for account in ACCOUNTS:
            own, sizes = counted(client, f"qs:{{{account}}}:jobs:shop:sizes")
            of_accounts += own
            assert own <= TERMS.bytes_per_account
            prefix = f"qs:{{{account}}}:jobs:shop:job:"
            records = {
                name.decode().removeprefix(prefix): client.hgetall(name)
                for name in client.scan_iter(f"{prefix}*")
            }
            assert records.keys() == sizes.keys()
            for job_id, record in records.items():
                # A claim writes an owner and an instant, which the overhead covers.
                assert abs(record_size(record) - sizes[job_id]) < 200
                assert sizes_of_all[f"{job_id}/{account}"] >= sizes[job_id]
    assert of_accounts <= total <= TERMS.bytes_in_all


async def test_I9_ended_jobs_are_dropped_until_the_sizes_of_all_accounts_fit(
    valkey_url: str,
) -> None:
    """A dropped result frees less than its job: one round is not enough."""
    terms = JobTerms(
        per_account=50, in_all=150, bytes_per_account=90_000, bytes_in_all=60_000, result_ttl_s=600
    )
    wire = Wire(valkey_url, timeout_s=10)
    await wire.start()
    store = RedisJobs(wire, "qs", "shop", terms)

    async def run_job(account: str, result: int) -> None:
        request = JobRequest("POST", b"/x", b"a", "10.0.0.1", (), b"")
        job = Job(
            id=f"0199-{account}", account=account, key="k1", digest=b"\1" * 32,
            delivery="at-least-once", method="POST", target=b"/x", request=request,
        )  # fmt: skip
        assert await store.add(job, None, due_in_us=0) == AcceptedJob(job.id)
        assert isinstance(await store.claim(account, "me"), ClaimedJob)
        outcome = JobOutcome(JobState.DONE, "ok", JobResult(200, (), b"r" * result))
        assert await store.end(account, job.id, "me", outcome) is JobState.DONE

    for number in range(10):
        await run_job(f"small{number}", 1_000)
    with redis.Redis.from_url(valkey_url) as client:
        before, _ = counted(client, "qs:{jobs}:shop:sizes")
        assert before > 40_000
        await run_job("large", 18_000)
        total, sizes = counted(client, "qs:{jobs}:shop:sizes")
    assert before - 10 * 1_000 < total <= terms.bytes_in_all
    assert sizes["0199-large/large"] > 18_000
    assert store.dropped["result"] > 3
    await wire.stop()
