"""Deferred jobs in Redis. Implements `ports.JobStore`.

An account's open jobs are a stream with a consumer group, in the account's slot. A claimed job is
pending there, and its idle time is the job lease. Four sorted sets cover all accounts: open jobs,
running jobs, due accounts and due webhooks. On a cluster they are in another slot, so a change
takes several steps, and a failure after any of them is safe:

- A due account without a job is removed when it is next due.
- A job whose account was not scheduled is found by the instant that `register` has set before.
"""

from dataclasses import dataclass
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
from sidecar.core.model import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.ports import DueItem, JobCounts
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import ReplyError, encode
from sidecar.stores.job_records import Pairs, job_pairs, outcome_pairs, read_job
from sidecar.stores.scripts import run

GRACE_US: Final = 5 * MICRO  # until a registered account is due, unless it is scheduled
ACCOUNT_HIDDEN_US: Final = 20 * MICRO  # longer than it takes to admit a job
WEBHOOK_HIDDEN_US: Final = 60 * MICRO  # longer than one try of a webhook may take
WAKE_ALL_WITHIN_US: Final = 10 * MICRO
WAKE_ALL_LIMIT: Final = 10_000  # accounts; others keep their instant
OVERDUE_LIMIT: Final = 100  # jobs per count
_REMOVE: Final = -1


@dataclass(frozen=True, slots=True)
class JobTerms:
    """Bounds on the number and age of jobs. Spans in seconds."""

    per_account: int = 1_000
    in_all: int = 10_000
    max_age_s: int = 40 * 86_400
    result_ttl_s: int = 86_400
    lease_s: float = 30.0
    webhooks: bool = False  # ended jobs have webhooks


class RedisJobs:
    """The jobs of one workload."""

    def __init__(self, wire: Connection, prefix: str, workload: str, terms: JobTerms) -> None:
        self._wire = wire
        self._prefix = prefix
        self._workload = workload
        self._terms = terms
        self._lease_ms = int(terms.lease_s * 1000)
        self._ttl_ms = (terms.max_age_s + terms.result_ttl_s) * 1000
        self._open, self._running, self._accounts, self._webhooks = (
            keys.jobs_of_all(prefix, workload, what)
            for what in ("open", "running", "accounts", "webhooks")
        )

    # accept

    async def add(
        self, job: Job, key: IdempotencyKey | None, *, due_in_us: int
    ) -> AcceptedJob | JobRefusal:
        """Implements `ports.JobStore`."""
        account, member, terms = job.account, f"{job.id}/{job.account}", self._terms
        registered, *_ = await self._run(
            "jobs/register", (self._open, self._accounts),
            member, account, terms.in_all, GRACE_US, self._ttl_ms,
        )  # fmt: skip
        if registered != 1:
            existing = await self.find_by_key(account, key.digest) if key else None
            return _existing(existing, key) if existing and key else JobRefusal.ALL_FULL
        names = self._names(account, job.id)
        if key is not None:
            names = (*names, self._key_name(account, key.digest))
        pairs = job_pairs(job)
        status, _, text = await self._run(
            "jobs/add", names, self._ttl_ms, terms.per_account, job.id,
            key.request_digest if key else "", len(pairs), *pairs,
        )  # fmt: skip
        if status == 1:
            await self._schedule(self._accounts, account, "sooner", due_in_us)
            return AcceptedJob(job.id)
        await self._remove(self._open, member)
        if status == 2 and key is not None:
            return _existing(_parts(text), key)
        return JobRefusal.FULL

    async def find_by_key(self, account_id: str, digest: str) -> tuple[str, str] | None:
        """Implements `ports.JobStore`."""
        reply = await self._read("GET", self._key_name(account_id, digest))
        return _parts(reply) if reply else None

    async def find(self, account_id: str, job_id: str) -> JobStatus | None:
        """Implements `ports.JobStore`."""
        status, _, position, record = await self._run("jobs/find", self._names(account_id, job_id))
        return JobStatus(read_job(record), position) if status == 1 else None

    # run

    async def claim(self, account_id: str, owner: str) -> ClaimedJob | int:
        """Implements `ports.JobStore`."""
        status, _, count, _, record = await self._run(
            "jobs/claim", self._names(account_id, ""), owner, self._lease_ms
        )
        if status == 0:
            return int(count)
        job = read_job(record)
        await self._note_running(job)
        return ClaimedJob(job, orphan=status == 2)

    async def renew(self, job: Job, owner: str) -> bool:
        """Implements `ports.JobStore`."""
        renewed, _ = await self._move(job.account, job.id, owner, JobState.RUNNING)
        if renewed:
            await self._note_running(job)
        return renewed

    async def requeue(self, job: Job, owner: str) -> bool:
        """Implements `ports.JobStore`."""
        requeued, _ = await self._move(job.account, job.id, owner, JobState.WAITING)
        if requeued:
            await self._remove(self._running, f"{job.id}/{job.account}")
        return requeued

    async def end(
        self, account_id: str, job_id: str, owner: str, outcome: JobOutcome
    ) -> JobState | None:
        """Implements `ports.JobStore`."""
        pairs = outcome_pairs(outcome)
        moved, state = await self._move(account_id, job_id, owner, outcome.state, pairs)
        member = f"{job_id}/{account_id}"
        if state is None or not state.is_open:
            await self._remove(self._open, member)
            await self._remove(self._running, member)
        if moved and self._terms.webhooks:
            await self._schedule(self._webhooks, member, "sooner", 0)
        return state

    async def _note_running(self, job: Job) -> None:
        member = f"{job.id}/{job.account}"
        await self._schedule(self._running, member, "any", self._lease_ms * 1000)

    async def _move(
        self, account_id: str, job_id: str, owner: str, to: JobState, pairs: Pairs | None = None
    ) -> tuple[bool, JobState | None]:
        """Return whether the job has moved, and its state now."""
        pairs = pairs or []
        status, _, state = await self._run(
            "jobs/move", self._names(account_id, job_id), owner, to, self._lease_ms,
            self._terms.result_ttl_s * 1000, len(pairs), *pairs,
        )  # fmt: skip
        return status == 1, None if status == -1 else JobState(state.decode())

    # due accounts and webhooks

    async def take_due_accounts(self, limit: int) -> list[DueItem]:
        """Implements `ports.JobStore`."""
        return await self._take(self._accounts, limit, ACCOUNT_HIDDEN_US)

    async def schedule(self, account: DueItem, in_us: int | None) -> None:
        """Implements `ports.JobStore`."""
        await self._schedule(self._accounts, account.name, account.hidden_until_us, in_us)

    async def wake(self, account_id: str) -> None:
        """Implements `ports.JobStore`."""
        await self._schedule(self._accounts, account_id, "present", 0)

    async def wake_all(self) -> None:
        """Implements `ports.JobStore`."""
        await self._run("jobs/wake_all", (self._accounts,), WAKE_ALL_WITHIN_US, WAKE_ALL_LIMIT)

    async def take_due_webhooks(self, limit: int) -> list[DueItem]:
        """Implements `ports.JobStore`."""
        return await self._take(self._webhooks, limit, WEBHOOK_HIDDEN_US)

    async def schedule_webhook(self, webhook: DueItem, in_us: int | None) -> None:
        """Implements `ports.JobStore`."""
        await self._schedule(self._webhooks, webhook.name, webhook.hidden_until_us, in_us)

    async def _take(self, name: str, limit: int, hide_us: int) -> list[DueItem]:
        _, now_us, hidden_until_us, *due = await self._run(
            "jobs/take", (name,), limit, hide_us, self._ttl_ms
        )
        return [DueItem(member.decode(), hidden_until_us, now_us) for member in due]

    async def _schedule(self, name: str, member: str, when: str | int, in_us: int | None) -> None:
        span = _REMOVE if in_us is None else in_us
        await self._run("jobs/schedule", (name,), member, when, span, self._ttl_ms)

    async def _remove(self, name: str, member: str) -> None:
        await self._schedule(name, member, "present", None)

    # numbers and lists

    async def count(self) -> JobCounts:
        """Implements `ports.JobStore`."""
        count, now_us, running, oldest_us, *overdue = await self._run(
            "jobs/count", (self._open, self._running),
            self._terms.max_age_s * MICRO, OVERDUE_LIMIT,
        )  # fmt: skip
        members = tuple(_split(member.decode()) for member in overdue)
        return JobCounts(now_us, count, running, oldest_us, members)

    async def list_open(self, limit: int) -> list[tuple[str, str]]:
        """Implements `ports.JobStore`."""
        members = await self._read("ZRANGE", self._open, 0, limit - 1)
        return [_split(member.decode()) for member in members]

    # Redis

    async def _run(self, script: str, names: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        return await run(self._wire, script, names, *arguments)

    async def _read(self, command: str, name: str, *arguments: int) -> Any:
        sent = encode(command, name, *arguments)
        reply = await self._wire.execute(sent, None, slot_of(name))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis refused {command}: {reply.text}")
        return reply

    def _names(self, account_id: str, job_id: str) -> tuple[str, ...]:
        records = keys.job_records(self._prefix, account_id, self._workload)
        return keys.job_queue(self._prefix, account_id, self._workload), records + job_id

    def _key_name(self, account_id: str, digest: str) -> str:
        return keys.job_idempotency(self._prefix, account_id, self._workload, digest)


def _split(member: str) -> tuple[str, str]:
    """Return the ID and the account of "id/account"."""
    job_id, _, account = member.partition("/")
    return job_id, account


def _parts(text: bytes) -> tuple[str, str]:
    job_id, _, request_digest = text.decode().partition(" ")
    return job_id, request_digest


def _existing(existing: tuple[str, str], key: IdempotencyKey) -> AcceptedJob | JobRefusal:
    job_id, request_digest = existing
    if request_digest != key.request_digest:
        return JobRefusal.OTHER_REQUEST
    return AcceptedJob(job_id, existing=True)
