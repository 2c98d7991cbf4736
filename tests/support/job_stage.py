"""A job runner with a store in memory and a scripted gate, in virtual time."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from sidecar.core.jobs.job import (
    ClaimedJob,
    Delivery,
    Job,
    JobOutcome,
    JobRequest,
    JobState,
    Postponed,
)
from sidecar.errors import StoreUnavailable
from sidecar.jobs.runner import JobRunner
from sidecar.ports import DueItem, JobCounts

REQUEST = JobRequest("GET", b"/x", b"a.test", "10.0.0.1", (), b"")
DONE = JobOutcome(JobState.DONE, "ok")


def a_job(job_id: str, account: str = "acme", delivery: Delivery = "at-least-once") -> Job:
    return Job(job_id, account, "k1", b"", delivery, "GET", b"/x", request=REQUEST)


class StoreInMemory:
    """The part of `ports.JobStore` that a runner uses. `down`: it is unavailable."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[ClaimedJob]] = {}
        self.due: set[str] = set()
        self.scheduled: list[tuple[str, int | None]] = []
        self.ended: dict[str, JobOutcome] = {}
        self.requeued: list[str] = []
        self.owners: dict[str, str] = {}  # job → owner
        self.overdue: tuple[tuple[str, str], ...] = ()
        self.woken: list[str] = []
        self.down = False

    def put(self, job: Job, *, orphan: bool = False) -> None:
        self.queues.setdefault(job.account, deque()).append(ClaimedJob(job, orphan))
        self.due.add(job.account)

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("down")

    async def take_due_accounts(self, limit: int) -> list[DueItem]:
        self._check()
        taken = sorted(self.due)[:limit]
        self.due -= set(taken)
        return [DueItem(name, 1, 0) for name in taken]

    async def claim(self, account_id: str, owner: str) -> ClaimedJob | int:
        self._check()
        queue = self.queues.get(account_id)
        if not queue:
            return sum(one.endswith(f"/{account_id}") for one in self.owners)
        claimed = queue.popleft()
        self.owners[f"{claimed.job.id}/{account_id}"] = owner
        return _running(claimed)

    async def renew(self, job: Job, owner: str) -> bool:
        self._check()
        return self.owners.get(f"{job.id}/{job.account}") == owner

    async def requeue(self, job: Job, owner: str) -> bool:
        if not await self.renew(job, owner):
            return False
        del self.owners[f"{job.id}/{job.account}"]
        self.queues[job.account].appendleft(ClaimedJob(job, orphan=False))
        self.requeued.append(job.id)
        return True

    async def end(
        self, account_id: str, job_id: str, owner: str, outcome: JobOutcome
    ) -> JobState | None:
        self._check()
        if owner and self.owners.get(f"{job_id}/{account_id}") not in (owner, None):
            return JobState.RUNNING
        if job_id in self.ended:  # the first end counts
            return self.ended[job_id].state
        self.owners.pop(f"{job_id}/{account_id}", None)
        self.ended[job_id] = outcome
        return outcome.state

    async def schedule(self, account: DueItem, in_us: int | None) -> None:
        self._check()
        self.scheduled.append((account.name, in_us))
        if in_us == 0:
            self.due.add(account.name)

    async def wake(self, account_id: str) -> None:
        self._check()
        self.woken.append(account_id)
        if self.queues.get(account_id):
            self.due.add(account_id)

    async def wake_all(self) -> None:
        self._check()
        self.due |= set(self.queues)

    async def count(self) -> JobCounts:
        self._check()
        overdue, self.overdue = self.overdue, ()
        return JobCounts(overdue=overdue)


def _running(claimed: ClaimedJob) -> ClaimedJob:
    return claimed._replace(job=replace(claimed.job, state=JobState.RUNNING))


@dataclass
class Admitted:
    """An admitted job that ends with `outcome` when `finish` is set."""

    gate: "ScriptedGate"
    job: Job
    outcome: JobOutcome | Postponed

    async def run(self) -> JobOutcome | Postponed:
        self.gate.running.append(self.job.id)
        try:
            await self.gate.finish.wait()
        finally:
            self.gate.running.remove(self.job.id)
        self.gate.forwarded.append(self.job.id)
        return self.outcome

    def abandon(self) -> None:
        self.gate.abandoned.append(self.job.id)


class ScriptedGate:
    """Admits jobs, unless `refusals` has an answer for them."""

    def __init__(self) -> None:
        self.refusals: dict[str, JobOutcome | Postponed] = {}
        self.outcomes: dict[str, JobOutcome | Postponed] = {}
        self.running: list[str] = []
        self.forwarded: list[str] = []
        self.abandoned: list[str] = []
        self.finish = asyncio.Event()
        self.finish.set()

    async def admit(self, job: Job) -> Admitted | Postponed | JobOutcome:
        refusal = self.refusals.get(job.id)
        return refusal or Admitted(self, job, self.outcomes.get(job.id, DONE))


class JobStage:
    """A runner that works on `store` through `gate`."""

    def __init__(self, at_once: int = 4) -> None:
        self.store = StoreInMemory()
        self.gate = ScriptedGate()
        self.counted: Counter[str] = Counter()
        ids = iter(range(1_000))
        store: Any = self.store  # it has only the methods that a runner uses
        self.runner = JobRunner(
            store,
            self.gate,
            at_once=at_once,
            lease_s=30.0,
            new_id=lambda: f"owner-{next(ids)}",
            counted=self.counted,
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run the runner during the block."""
        task = asyncio.ensure_future(self.runner.run())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
