"""Deferred jobs in Redis. Implements `ports.JobStore`.

An account's open jobs are a stream with a consumer group, in the account's slot. A claimed job is
pending there, and its idle time is the job lease. Four sorted sets cover all accounts: open jobs,
running jobs, due accounts and due webhooks. On a cluster they are in another slot, so a change
takes several steps, and a failure after any of them is safe:

- A due account without a job is removed when it is next due.
- A job whose account was not scheduled is found by the instant that `register` has set before.
"""

from collections import Counter
from typing import Any, Final

from sidecar.core.jobs.job import (
    AcceptedJob,
    ClaimedJob,
    IdempotencyKey,
    Job,
    JobOutcome,
    JobRefusal,
    JobState,
    JobStatus,
)
from sidecar.core.kinds import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.ports import DueItem, JobCounts
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import ReplyError, encode
from sidecar.stores.job_records import Pairs, job_pairs, outcome_pairs, read_job, record_bytes
from sidecar.stores.job_sizes import MAX_ROUNDS, JobSizes
from sidecar.stores.job_terms import JobNames, JobTerms, member_of, split_member
from sidecar.stores.scripts import run

GRACE_US: Final = 5 * MICRO  # until a registered account is due, unless it is scheduled
ACCOUNT_HIDDEN_US: Final = 20 * MICRO  # longer than it takes to admit a job
WEBHOOK_HIDDEN_US: Final = 60 * MICRO  # longer than one try of a webhook may take
WAKE_ALL_WITHIN_US: Final = 10 * MICRO
WAKE_ALL_LIMIT: Final = 10_000  # accounts; others keep their instant
OVERDUE_LIMIT: Final = 100  # jobs per count
_REMOVE: Final = -1


class RedisJobs:
    """The jobs of one workload."""

    def __init__(self, wire: Connection, prefix: str, workload: str, terms: JobTerms) -> None:
        self._wire = wire
        self._terms = terms
        self._names = JobNames(prefix, workload)
        self._sizes = JobSizes(wire, self._names, terms)

    @property
    def dropped(self) -> Counter[str]:
        """Ended jobs, and results of ended jobs, that made room for others."""
        return self._sizes.dropped

    # accept

    async def add(
        self, job: Job, key: IdempotencyKey | None, *, due_in_us: int
    ) -> AcceptedJob | JobRefusal:
        """Implements `ports.JobStore`."""
        account, pairs = job.account, job_pairs(job)
        size = record_bytes(pairs)
        refusal = await self._register(job, size)
        if refusal is not None:
            existing = await self.find_by_key(account, key.digest) if key else None
            return _existing(existing, key) if existing and key else refusal
        names = self._names_of(account)
        if key is not None:
            names = (*names, self._names.idempotency(account, key.digest))
        terms = self._terms
        status, _, text, *dropped = await self._run(
            "jobs/add", names, terms.ttl_ms, terms.per_account, terms.bytes_per_account,
            terms.kept_us, size, job.id, key.request_digest if key else "", len(pairs), *pairs,
        )  # fmt: skip
        await self._sizes.set_dropped(account, dropped)
        if status == 1:
            await self._schedule(self._names.accounts, account, "sooner", due_in_us)
            return AcceptedJob(job.id)
        await self._sizes.forget(job.id, account)
        await self._remove(self._names.open, member_of(job.id, account))
        if status == 2 and key is not None:
            return _existing(_parts(text), key)
        return JobRefusal.FULL if status == 0 else JobRefusal.FULL_BYTES

    async def _register(self, job: Job, size: int) -> JobRefusal | None:
        """Register a job among those of all accounts; None if there is room.

        Ended jobs are dropped if that makes room.
        """
        names, terms = self._names, self._terms
        if size > terms.bytes_per_account:
            return JobRefusal.TOO_LARGE
        for _ in range(MAX_ROUNDS):
            status, _, _, *members = await self._run(
                "jobs/register", (names.open, names.accounts, names.sizes, names.ended),
                member_of(job.id, job.account), job.account, terms.in_all, terms.bytes_in_all,
                size, GRACE_US, terms.ttl_ms,
            )  # fmt: skip
            if status == 1:
                return None
            if status == 0:
                return JobRefusal.ALL_FULL
            if not members:
                break
            await self._sizes.make_room(members)
        return JobRefusal.ALL_FULL_BYTES

    async def count_change(self, account_id: str) -> int:
        """Implements `ports.JobStore`."""
        if not self._terms.changes_per_minute:
            return 0
        _, _, retry_us = await self._run(
            "jobs/rate", (self._names.rate(account_id),), self._terms.changes_per_minute
        )
        return int(retry_us)

    async def find_by_key(self, account_id: str, digest: str) -> tuple[str, str] | None:
        """Implements `ports.JobStore`."""
        reply = await self._read("GET", self._names.idempotency(account_id, digest))
        return _parts(reply) if reply else None

    async def find(self, account_id: str, job_id: str) -> JobStatus | None:
        """Implements `ports.JobStore`."""
        names = (self._names.queue(account_id), self._names.records(account_id) + job_id)
        status, _, position, record = await self._run("jobs/find", names)
        return JobStatus(read_job(record), position) if status == 1 else None

    # run

    async def claim(self, account_id: str, owner: str) -> ClaimedJob | int:
        """Implements `ports.JobStore`."""
        status, _, count, _, record = await self._run(
            "jobs/claim", self._names_of(account_id)[:2], owner, self._terms.lease_ms
        )
        if status == 0:
            return int(count)
        job = read_job(record)
        await self._note_running(job)
        return ClaimedJob(job, orphan=status == 2)

    async def renew(self, job: Job, owner: str) -> bool:
        """Implements `ports.JobStore`."""
        renewed, *_ = await self._move(job.account, job.id, owner, JobState.RUNNING)
        if renewed:
            await self._note_running(job)
        return renewed

    async def requeue(self, job: Job, owner: str) -> bool:
        """Implements `ports.JobStore`."""
        requeued, *_ = await self._move(job.account, job.id, owner, JobState.WAITING)
        if requeued:
            await self._remove(self._names.running, member_of(job.id, job.account))
        return requeued

    async def end(
        self, account_id: str, job_id: str, owner: str, outcome: JobOutcome
    ) -> JobState | None:
        """Implements `ports.JobStore`."""
        pairs = outcome_pairs(outcome)
        moved, state, changes = await self._move(account_id, job_id, owner, outcome.state, pairs)
        member = member_of(job_id, account_id)
        if state is None or not state.is_open:  # repeated, it repairs what has failed before
            size, *dropped = changes
            await self._sizes.set_ended(job_id, account_id, size)
            await self._sizes.set_dropped(account_id, dropped)
            await self._remove(self._names.open, member)
            await self._remove(self._names.running, member)
        if moved and self._terms.webhooks:
            await self._schedule(self._names.webhooks, member, "sooner", 0)
        return state

    async def _note_running(self, job: Job) -> None:
        member = member_of(job.id, job.account)
        await self._schedule(self._names.running, member, "any", self._terms.lease_ms * 1000)

    async def _move(
        self, account_id: str, job_id: str, owner: str, to: JobState, pairs: Pairs | None = None
    ) -> tuple[bool, JobState | None, list[Any]]:
        """Return whether the job has moved, its state now, and the sizes that have changed."""
        pairs, terms = pairs or [], self._terms
        status, _, state, *changes = await self._run(
            "jobs/move", self._names_of(account_id), job_id, owner, to, terms.lease_ms,
            terms.result_ttl_s * 1000, terms.bytes_per_account, len(pairs), *pairs,
        )  # fmt: skip
        return status == 1, None if status == -1 else JobState(state.decode()), changes

    # due accounts and webhooks

    async def take_due_accounts(self, limit: int) -> list[DueItem]:
        """Implements `ports.JobStore`."""
        return await self._take(self._names.accounts, limit, ACCOUNT_HIDDEN_US)

    async def schedule(self, account: DueItem, in_us: int | None) -> None:
        """Implements `ports.JobStore`."""
        await self._schedule(self._names.accounts, account.name, account.hidden_until_us, in_us)

    async def wake(self, account_id: str) -> None:
        """Implements `ports.JobStore`."""
        await self._schedule(self._names.accounts, account_id, "present", 0)

    async def wake_all(self) -> None:
        """Implements `ports.JobStore`."""
        await self._run(
            "jobs/wake_all", (self._names.accounts,), WAKE_ALL_WITHIN_US, WAKE_ALL_LIMIT
        )

    async def take_due_webhooks(self, limit: int) -> list[DueItem]:
        """Implements `ports.JobStore`."""
        return await self._take(self._names.webhooks, limit, WEBHOOK_HIDDEN_US)

    async def schedule_webhook(self, webhook: DueItem, in_us: int | None) -> None:
        """Implements `ports.JobStore`."""
        await self._schedule(self._names.webhooks, webhook.name, webhook.hidden_until_us, in_us)

    async def _take(self, name: str, limit: int, hide_us: int) -> list[DueItem]:
        _, now_us, hidden_until_us, *due = await self._run(
            "jobs/take", (name,), limit, hide_us, self._terms.ttl_ms
        )
        return [DueItem(member.decode(), hidden_until_us, now_us) for member in due]

    async def _schedule(self, name: str, member: str, when: str | int, in_us: int | None) -> None:
        span = _REMOVE if in_us is None else in_us
        await self._run("jobs/schedule", (name,), member, when, span, self._terms.ttl_ms)

    async def _remove(self, name: str, member: str) -> None:
        await self._schedule(name, member, "present", None)

    # numbers and lists

    async def count(self) -> JobCounts:
        """Implements `ports.JobStore`."""
        names, terms = self._names, self._terms
        count, now_us, running, oldest_us, stored, of_open, *overdue = await self._run(
            "jobs/count", (names.open, names.running, names.sizes, names.ended),
            terms.max_age_s * MICRO, OVERDUE_LIMIT, terms.kept_us,
        )  # fmt: skip
        members = tuple(split_member(member) for member in overdue)
        return JobCounts(now_us, count, running, oldest_us, members, stored, of_open)

    async def list_open(self, limit: int) -> list[tuple[str, str]]:
        """Implements `ports.JobStore`."""
        members = await self._read("ZRANGE", self._names.open, 0, limit - 1)
        return [split_member(member) for member in members]

    # Redis

    async def _run(self, script: str, names: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        return await run(self._wire, script, names, *arguments)

    async def _read(self, command: str, name: str, *arguments: int) -> Any:
        sent = encode(command, name, *arguments)
        reply = await self._wire.execute(sent, None, slot_of(name))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis refused {command}: {reply.text}")
        return reply

    def _names_of(self, account_id: str) -> tuple[str, ...]:
        names = self._names
        return names.queue(account_id), names.records(account_id), *names.stored(account_id)


def _parts(text: bytes) -> tuple[str, str]:
    job_id, _, request_digest = text.decode().partition(" ")
    return job_id, request_digest


def _existing(existing: tuple[str, str], key: IdempotencyKey) -> AcceptedJob | JobRefusal:
    job_id, request_digest = existing
    if request_digest != key.request_digest:
        return JobRefusal.OTHER_REQUEST
    return AcceptedJob(job_id, existing=True)
