"""Runs deferred jobs: due accounts, one job of each at a time, up to `at_once` together.

The store holds one instant per account; a poll for due accounts costs one command. A running job
has a job lease. If its sidecar dies, the lease ends and another sidecar claims the job.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from sidecar.core.jobs.job import (
    Job,
    JobFailure,
    JobOutcome,
    JobState,
    Postponed,
    may_run,
    next_check_us,
)
from sidecar.core.kinds import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.ports import DueItem, JobCounts, JobStore

log = logger("jobs")
T = TypeVar("T")

POLL_S: Final = 0.25  # between polls for due accounts
COUNT_S: Final = 5.0  # between counts
MAX_CHANGED: Final = 1_000  # accounts that are woken early; others become due by themselves
RETRY_PAUSES_S: Final = (0.05, 0.2, 1.0, 2.0, 5.0, 10.0)  # when the end of a job cannot be stored
RENEWALS: Final = 3  # per span of a lease
_LOST: Final = JobOutcome(JobState.FAILED, JobFailure.LOST)
_EXPIRED: Final = JobOutcome(JobState.FAILED, JobFailure.EXPIRED)


class AdmittedJob(Protocol):
    """A job whose reservation is open, before it is forwarded."""

    async def run(self) -> JobOutcome | Postponed:
        """Forward the request and settle. Postponed: nothing was sent, and nothing is charged."""
        ...

    def abandon(self) -> None:
        """Cancel the reservation. Nothing was sent."""
        ...


class JobGate(Protocol):
    """Admits jobs as the gate admits requests."""

    async def admit(self, job: Job) -> AdmittedJob | Postponed | JobOutcome: ...


@dataclass(slots=True)
class _Run:
    job: Job
    owner: str
    task: "asyncio.Task[None] | None"
    lost: bool = False  # another sidecar has claimed the job


class JobRunner:
    """Runner of one process. `run` must run in a task; `cancel` ends the jobs that it runs.

    `counted` counts jobs by their final state.
    """

    def __init__(
        self,
        store: JobStore,
        gate: JobGate,
        *,
        at_once: int,
        lease_s: float,
        new_id: Callable[[], str],
        counted: Counter[str],
    ) -> None:
        self._store = store
        self._gate = gate
        self._at_once = at_once
        self._lease_s = lease_s
        self._new_id = new_id
        self._counted = counted
        self._runs: dict[str, _Run] = {}  # by owner
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: set[str] = set()  # accounts to wake
        self._all_changed = False
        self._awake = asyncio.Event()
        self._paused = False
        self._idle_until = 0.0  # loop time; the upstream was unreachable
        self._unavailable = False  # Redis, at the last poll
        self.counts = JobCounts()

    @property
    def running(self) -> int:
        """Accounts whose job this process runs or admits."""
        return len(self._tasks)

    def poll(self) -> None:
        """Poll for due accounts now."""
        self._awake.set()

    def account_changed(self, account_id: str) -> None:
        """Wake an account whose plan, grants or status have changed."""
        if len(self._changed) < MAX_CHANGED:
            self._changed.add(account_id)
        self.poll()

    def plans_changed(self) -> None:
        """Wake all accounts: another plan file is live."""
        self._all_changed = True
        self.poll()

    async def run(self) -> None:
        """Start due jobs until cancelled; none after `pause`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_leases())
            group.create_task(self._count())
            while True:
                self._awake.clear()
                await self._wake_changed()
                free = self._at_once - self.running
                if free > 0 and not self._paused and _now() >= self._idle_until:
                    await self._start(free)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), POLL_S)

    async def _wake_changed(self) -> None:
        if self._all_changed:
            self._all_changed = False
            with contextlib.suppress(StoreUnavailable):  # they become due by themselves
                await self._store.wake_all()
        changed, self._changed = self._changed, set()
        for account_id in changed:
            await self._wake(account_id)

    async def _start(self, limit: int) -> None:
        try:
            accounts = await self._store.take_due_accounts(limit)
            if self._unavailable:
                log.info("job_queue_reachable")
            self._unavailable = False
        except StoreUnavailable as error:
            if not self._unavailable:
                log.warning("job_queue_unreachable", error=str(error))
            self._unavailable = True
            return
        for account in accounts:
            task = asyncio.get_running_loop().create_task(self._run_next(account), name="job")
            self._tasks.add(task)
            task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("job_task_died", exc_info=task.exception())
        self.poll()

    async def _run_next(self, account: DueItem) -> None:
        """Claim and run the account's next job, if there is one."""
        owner = self._new_id()
        try:
            claimed = await self._store.claim(account.name, owner)
            if isinstance(claimed, int):
                lease_us = int(self._lease_s * MICRO)
                await self._store.schedule(account, lease_us if claimed else None)
                return
            job = claimed.job
            if not may_run(claimed):
                await self._end(job, owner, _LOST)
                await self._store.schedule(account, 0)
                return
        except StoreUnavailable as error:  # the account becomes due again by itself
            log.warning("job_poll_postponed", account=account.name, error=str(error))
            return
        run = self._runs[owner] = _Run(job, owner, asyncio.current_task())
        try:
            await self._admit_and_run(account, run)
        except asyncio.CancelledError:
            if not run.lost:
                await self._release(run)
            raise
        finally:
            del self._runs[owner]

    async def _admit_and_run(self, account: DueItem, run: _Run) -> None:
        job, owner = run.job, run.owner
        admitted = await self._gate.admit(job)
        if isinstance(admitted, Postponed):
            if await self._retry(lambda: self._store.requeue(job, owner), job) is not None:
                await self._schedule(account, next_check_us(admitted.retry_us))
            return
        if isinstance(admitted, JobOutcome):
            await self._end(job, owner, admitted)
            await self._schedule(account, 0)
            return
        try:
            renewed = await self._store.renew(job, owner)
        except StoreUnavailable as error:
            log.warning("job_postponed", job=job.id, account=job.account, error=str(error))
            renewed = False
        except asyncio.CancelledError:
            admitted.abandon()
            raise
        if not renewed:
            admitted.abandon()
            return
        await self._schedule(account, 0)  # the account's next job may run beside this one
        self.poll()
        outcome = await admitted.run()
        if isinstance(outcome, Postponed):  # the upstream is unreachable, for every account's jobs
            self._idle_until = max(self._idle_until, _now() + outcome.retry_us / MICRO)
            await self._retry(lambda: self._store.requeue(job, owner), job)
            return
        await self._end(job, owner, outcome)
        await self._wake(job.account)

    async def _schedule(self, account: DueItem, in_us: int) -> None:
        with contextlib.suppress(StoreUnavailable):  # it becomes due again by itself
            await self._store.schedule(account, in_us)

    async def _wake(self, account_id: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # it becomes due by itself
            await self._store.wake(account_id)

    async def _end(self, job: Job, owner: str, outcome: JobOutcome) -> None:
        """Store the end of a job."""
        end = self._store.end
        state = await self._retry(lambda: end(job.account, job.id, owner, outcome), job)
        if state is not outcome.state:
            log.warning("job_result_late", job=job.id, account=job.account)
            return
        self._counted[outcome.state] += 1
        log.info(
            "job_ended",
            job=job.id,
            account=job.account,
            state=outcome.state,
            reason=outcome.reason,
        )

    async def _retry(self, write: Callable[[], Awaitable[T]], job: Job) -> T | None:
        """Repeat a write until the store answers; None after all retries."""
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                return await write()
            except StoreUnavailable as error:
                if pause_s is None:
                    log.error("job_result_lost", job=job.id, account=job.account, error=str(error))
                    return None
            await asyncio.sleep(pause_s)
        return None

    async def _release(self, run: _Run) -> None:
        """Requeue a job that was cancelled while it ran, or end it if it may not run again."""
        job = run.job
        try:
            if job.delivery == "at-least-once":
                await self._store.requeue(job, run.owner)
                await self._store.wake(job.account)
            else:
                state = await self._store.end(job.account, job.id, run.owner, _LOST)
                if state is _LOST.state:  # else another sidecar has it, or has ended it
                    self._counted[state] += 1
        except StoreUnavailable as error:
            log.warning("job_abandoned", job=job.id, account=job.account, error=str(error))

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / RENEWALS)
            for run in list(self._runs.values()):
                try:
                    renewed = await self._store.renew(run.job, run.owner)
                except StoreUnavailable:
                    continue
                if not renewed and self._runs.get(run.owner) is run:
                    log.warning("job_lease_lost", job=run.job.id)
                    run.lost = True
                    if run.task is not None:
                        run.task.cancel()

    async def _count(self) -> None:
        """Count open jobs, and end those that are overdue."""
        while True:
            try:
                self.counts = counts = await self._store.count()
                for job_id, account in counts.overdue:
                    state = await self._store.end(account, job_id, "", _EXPIRED)
                    if state is _EXPIRED.state:
                        self._counted[state] += 1
            except StoreUnavailable as error:
                log.debug("job_count_failed", error=str(error))
            await asyncio.sleep(COUNT_S)

    def pause(self) -> None:
        """Start no more jobs."""
        self._paused = True

    async def cancel(self) -> None:
        """Cancel running jobs. Those that may run again are requeued."""
        self.pause()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _now() -> float:
    return asyncio.get_running_loop().time()
