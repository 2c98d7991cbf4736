"""Deferred jobs in Redis. Keeps `ports.JobStore`.

An account's open jobs are a stream with a consumer group, in the account's own slot: what one
runner has read is pending, and its idle time there is the lease. Beside it four sorted sets, of
all accounts: what is open, what runs, whose turn it is, whose end is to be told. They are in
another slot on a cluster, so each step is safe to stop after: a turn without a job is dropped, a
job without a turn is found by the turn that was noted before it.
"""

from dataclasses import dataclass
from typing import Final

from sidecar.core.jobs.job import (
    Accepted,
    Claimed,
    Job,
    JobState,
    JobStatus,
    NotAccepted,
    Once,
    Over,
)
from sidecar.core.model import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.ports import JobCounts, Turn
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import ReplyError, encode
from sidecar.stores.job_records import Pairs, ended, read, written
from sidecar.stores.scripts import run

GRACE_US: Final = 5 * MICRO  # when a turn shows that nobody has named an instant for
HIDE_US: Final = 20 * MICRO  # longer than it takes to ask whether a job fits
TELL_US: Final = 60 * MICRO  # longer than a webhook may take
HURRY_US: Final = 10 * MICRO
HURRIED: Final = 10_000  # accounts; others wait for their turn
OVERDUE: Final = 100  # that are told at once
_NEVER: Final = -1


@dataclass(frozen=True, slots=True)
class JobTerms:
    """How many jobs there may be, and for how long. Spans in seconds."""

    per_account: int = 1_000
    in_all: int = 10_000
    max_age_s: int = 40 * 86_400
    result_ttl_s: int = 86_400
    lease_s: float = 30.0
    told: bool = False  # ends are told: there are webhooks


class RedisJobs:
    """The jobs of one workload."""

    def __init__(self, wire: Connection, prefix: str, workload: str, terms: JobTerms) -> None:
        self._wire = wire
        self._prefix = prefix
        self._workload = workload
        self._terms = terms
        self._lease_ms = int(terms.lease_s * 1000)
        self._ttl_ms = (terms.max_age_s + terms.result_ttl_s) * 1000
        self._open, self._running, self._turns, self._told = (
            keys.jobs_of_all(prefix, workload, what)
            for what in ("open", "running", "turns", "told")
        )

    # accept

    async def add(self, job: Job, once: Once | None, *, look_in_us: int) -> Accepted | NotAccepted:
        """Queue a job; see `ports.JobStore`."""
        account, member, terms = job.account, f"{job.id}/{job.account}", self._terms
        noted, *_ = await run(
            self._wire, "jobs/place", (self._open, self._turns),
            member, account, terms.in_all, GRACE_US, self._ttl_ms,
        )  # fmt: skip
        if noted != 1:
            known = await self.known(account, once.name) if once else None
            return _same(known, once) if known and once else NotAccepted.ALL_FULL
        names = self._names(account, job.id)
        if once is not None:
            names = (*names, keys.job_once(self._prefix, account, self._workload, once.name))
        pairs = written(job)
        status, _, text = await run(
            self._wire, "jobs/add", names, self._ttl_ms, terms.per_account, job.id,
            once.print if once else "", len(pairs), *pairs,
        )  # fmt: skip
        if status == 1:
            await self._turn(self._turns, account, "sooner", look_in_us)
            return Accepted(job.id)
        await self._drop(self._open, member)
        if status == 2 and once is not None:
            return _same(_parts(text), once)
        return NotAccepted.FULL

    async def known(self, account_id: str, name: str) -> tuple[str, str] | None:
        """What an Idempotency-Key stands for; see `ports.JobStore`."""
        key = keys.job_once(self._prefix, account_id, self._workload, name)
        reply = await self._wire.execute(encode("GET", key), None, slot_of(key))
        if isinstance(reply, ReplyError):
            raise StoreUnavailable(f"Redis refused to tell: {reply.text}")
        return _parts(reply) if reply else None

    async def find(self, account_id: str, job_id: str) -> JobStatus | None:
        """A job as it stands; see `ports.JobStore`."""
        status, _, position, record = await run(
            self._wire, "jobs/look", self._names(account_id, job_id)
        )
        return JobStatus(read(record), position) if status == 1 else None

    # run

    async def take(self, most: int) -> list[Turn]:
        """Accounts that are due; see `ports.JobStore`."""
        return await self._take(self._turns, most, HIDE_US)

    async def claim(self, account_id: str, owner: str) -> Claimed | int:
        """The account's next job; see `ports.JobStore`."""
        status, _, open_ones, _, record = await run(
            self._wire, "jobs/claim", self._names(account_id, ""), owner, self._lease_ms
        )
        if status == 0:
            return int(open_ones)
        job = read(record)
        await self._runs(job)
        return Claimed(job, orphan=status == 2)

    async def keep(self, job: Job, owner: str) -> bool:
        """Renew the lease; see `ports.JobStore`."""
        kept, _ = await self._move(job.account, job.id, owner, JobState.RUNNING)
        if kept:
            await self._runs(job)
        return kept

    async def give_back(self, job: Job, owner: str) -> bool:
        """Put the job back; see `ports.JobStore`."""
        given, _ = await self._move(job.account, job.id, owner, JobState.WAITING)
        if given:
            await self._drop(self._running, f"{job.id}/{job.account}")
        return given

    async def end(self, account_id: str, job_id: str, owner: str, over: Over) -> JobState | None:
        """End a job; see `ports.JobStore`."""
        moved, now = await self._move(account_id, job_id, owner, over.state, ended(over))
        member = f"{job_id}/{account_id}"
        if now is None or not now.is_open:
            await self._drop(self._open, member)
            await self._drop(self._running, member)
        if moved and self._terms.told:
            await self._turn(self._told, member, "sooner", 0)
        return now

    async def _runs(self, job: Job) -> None:
        await self._turn(self._running, f"{job.id}/{job.account}", "any", self._lease_ms * 1000)

    async def _move(
        self, account_id: str, job_id: str, owner: str, to: JobState, pairs: Pairs | None = None
    ) -> tuple[bool, JobState | None]:
        """Whether it was done, and the state that the job is in now."""
        pairs = pairs or []
        status, _, state = await run(
            self._wire, "jobs/move", self._names(account_id, job_id), owner, to, self._lease_ms,
            self._terms.result_ttl_s * 1000, len(pairs), *pairs,
        )  # fmt: skip
        return status == 1, None if status == -1 else JobState(state.decode())

    # whose turn it is

    async def next_turn(self, turn: Turn, in_us: int | None) -> None:
        """When to look again; see `ports.JobStore`."""
        await self._turn(self._turns, turn.who, turn.until_us, in_us)

    async def wake(self, account_id: str) -> None:
        """Look at once; see `ports.JobStore`."""
        await self._turn(self._turns, account_id, "there", 0)

    async def hurry(self) -> None:
        """Look at all accounts soon; see `ports.JobStore`."""
        await run(self._wire, "jobs/hurry", (self._turns,), HURRY_US, HURRIED)

    async def untold(self, most: int) -> list[Turn]:
        """Ends to be told; see `ports.JobStore`."""
        return await self._take(self._told, most, TELL_US)

    async def told(self, turn: Turn, again_in_us: int | None) -> None:
        """When to try again; see `ports.JobStore`."""
        await self._turn(self._told, turn.who, turn.until_us, again_in_us)

    async def count(self) -> JobCounts:
        """How many there are; see `ports.JobStore`."""
        open_ones, now, running, oldest, *overdue = await run(
            self._wire, "jobs/count", (self._open, self._running),
            self._terms.max_age_s * MICRO, OVERDUE,
        )  # fmt: skip
        told = tuple(parted(member.decode()) for member in overdue)
        return JobCounts(now, open_ones, running, oldest, told)

    async def open_ones(self, most: int) -> list[tuple[str, str]]:
        """The oldest open jobs; see `ports.JobStore`."""
        command = encode("ZRANGE", self._open, 0, most - 1)
        members = await self._wire.execute(command, None, slot_of(self._open))
        if isinstance(members, ReplyError):
            raise StoreUnavailable(f"Redis refused to tell: {members.text}")
        return [parted(member.decode()) for member in members]

    # what they share

    async def _take(self, name: str, most: int, hide_us: int) -> list[Turn]:
        _, now_us, until_us, *due = await run(
            self._wire, "jobs/take", (name,), most, hide_us, self._ttl_ms
        )
        return [Turn(who.decode(), until_us, now_us) for who in due]

    async def _turn(self, name: str, who: str, seen: str | int, in_us: int | None) -> None:
        span = _NEVER if in_us is None else in_us
        await run(self._wire, "jobs/turn", (name,), who, seen, span, self._ttl_ms)

    async def _drop(self, name: str, member: str) -> None:
        await run(self._wire, "jobs/turn", (name,), member, "there", _NEVER, self._ttl_ms)

    def _names(self, account_id: str, job_id: str) -> tuple[str, ...]:
        records = keys.job_records(self._prefix, account_id, self._workload)
        return keys.job_queue(self._prefix, account_id, self._workload), records + job_id


def parted(member: str) -> tuple[str, str]:
    """The id and the account of "id/account"."""
    job_id, _, account = member.partition("/")
    return job_id, account


def _parts(text: bytes) -> tuple[str, str]:
    job_id, _, told = text.decode().partition(" ")
    return job_id, told


def _same(known: tuple[str, str], once: Once) -> Accepted | NotAccepted:
    job_id, told = known
    return Accepted(job_id, known=True) if told == once.print else NotAccepted.OTHER_CALL
