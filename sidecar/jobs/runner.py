"""Runs deferred jobs: whose turn it is, one job at a time of each, as many at once as allowed.

One timer for each account, in the store; a look at what is due costs one command. Between claim
and end a job is leased: who stops renewing has died, and another sidecar goes on.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from sidecar.core.jobs.job import (
    Job,
    JobEnd,
    JobState,
    NotNow,
    Over,
    may_run,
    next_look_us,
)
from sidecar.core.model import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.ports import JobCounts, JobStore, Turn

log = logger("jobs")
T = TypeVar("T")

POLL_SECONDS: Final = 0.25  # how often it is asked what is due
COUNT_SECONDS: Final = 5.0
MOST_CHANGED: Final = 1_000  # accounts that are woken at once
STORE_RETRIES: Final = (0.05, 0.2, 1.0, 2.0, 5.0, 10.0)  # seconds between tries to tell an end
RENEWALS: Final = 3  # of a lease, before it is over


class Going(Protocol):
    """A job that was admitted: reserved, and not sent yet."""

    async def run(self) -> Over | NotNow:
        """Send it and settle. NotNow: nothing could be sent, and nothing was charged."""
        ...

    def abandon(self) -> None:
        """Give everything back; nothing was sent."""
        ...


class Door(Protocol):
    """The way to the API, for calls that no client waits for."""

    async def admit(self, job: Job) -> Going | NotNow | Over: ...


@dataclass(slots=True)
class _Run:
    job: Job
    owner: str
    task: "asyncio.Task[None]"
    lost: bool = False  # the lease: another has the job


class JobRunner:
    """One per process. `run` has to run beside it; `stop` ends what `run` has started."""

    def __init__(
        self,
        store: JobStore,
        door: Door,
        *,
        at_once: int,
        lease_s: float,
        new_id: Callable[[], str],
        counted: Counter[str],
    ) -> None:
        self._store = store
        self._door = door
        self._at_once = at_once
        self._lease_s = lease_s
        self._new_id = new_id
        self._counted = counted
        self._runs: dict[str, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: set[str] = set()
        self._all_changed = False
        self._awake = asyncio.Event()
        self._stopping = False
        self._paused_until = 0.0
        self._down = False
        self.counts = JobCounts()

    @property
    def running(self) -> int:
        """Turns that are under way here."""
        return len(self._tasks)

    def look(self) -> None:
        """Something may be due now."""
        self._awake.set()

    def account_changed(self, account_id: str) -> None:
        """Somebody has changed the account, or given it more: its jobs are tried at once."""
        if len(self._changed) < MOST_CHANGED:  # of the others the turn comes soon enough
            self._changed.add(account_id)
        self.look()

    def plans_changed(self) -> None:
        """Another plan file is live: every account may have more."""
        self._all_changed = True
        self.look()

    async def run(self) -> None:
        """Look for work until cancelled, or until `hold`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_leases())
            group.create_task(self._keep_count())
            while True:
                self._awake.clear()
                await self._wake_changed()
                free = self._at_once - self.running
                if free > 0 and not self._stopping and _now() >= self._paused_until:
                    await self._start(free)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), POLL_SECONDS)

    async def _wake_changed(self) -> None:
        if self._all_changed:
            self._all_changed = False
            with contextlib.suppress(StoreUnavailable):  # their turn comes all the same
                await self._store.hurry()
        changed, self._changed = self._changed, set()
        for account_id in changed:
            await self._wake(account_id)

    async def _start(self, most: int) -> None:
        try:
            turns = await self._store.take(most)
            if self._down:
                log.info("job_queue_reachable")
            self._down = False
        except StoreUnavailable as error:
            if not self._down:
                log.warning("job_queue_unreachable", error=str(error))
            self._down = True
            return
        for turn in turns:
            task = asyncio.get_running_loop().create_task(self._turn(turn), name="a job")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("job_task_died", exc_info=task.exception())
        self.look()

    async def _turn(self, turn: Turn) -> None:
        """One job of an account, if it has one that is due."""
        owner = self._new_id()
        try:
            claimed = await self._store.claim(turn.who, owner)
            if isinstance(claimed, int):
                lease_us = int(self._lease_s * MICRO)
                await self._store.next_turn(turn, lease_us if claimed else None)
                return
            job = claimed.job
            if not may_run(claimed):
                await self._end(job, owner, Over(JobState.FAILED, JobEnd.LOST))
                await self._store.next_turn(turn, 0)
                return
        except StoreUnavailable as error:  # the turn shows again by itself
            log.warning("job_poll_postponed", account=turn.who, error=str(error))
            return
        run = _Run(job, owner, _current())
        self._runs[owner] = run
        try:
            await self._attempt(turn, run)
        except asyncio.CancelledError:
            if not run.lost:
                await self._interrupted(run)
            raise
        finally:
            del self._runs[owner]

    async def _attempt(self, turn: Turn, run: _Run) -> None:
        job, owner = run.job, run.owner
        going = await self._door.admit(job)
        if isinstance(going, NotNow):
            await self._put_off(turn, run, going.retry_us)
            return
        if isinstance(going, Over):
            await self._end(job, owner, going)
            await self._tell_next(turn, 0)
            return
        try:
            kept = await self._store.keep(job, owner)
        except StoreUnavailable as error:
            log.warning("job_postponed", job=job.id, account=job.account, error=str(error))
            kept = False
        except asyncio.CancelledError:
            going.abandon()
            raise
        if not kept:
            going.abandon()
            return
        await self._tell_next(turn, 0)  # the account's next job need not wait for this one
        self.look()
        over = await going.run()
        if isinstance(over, NotNow):
            # The API cannot be reached from here, whosever job it is.
            self._paused_until = max(self._paused_until, _now() + over.retry_us / MICRO)
            await self._surely(lambda: self._store.give_back(job, owner), job)
            return
        await self._end(job, owner, over)
        await self._wake(job.account)

    async def _put_off(self, turn: Turn, run: _Run, retry_us: int) -> None:
        job = run.job
        if await self._surely(lambda: self._store.give_back(job, run.owner), job) is not None:
            await self._tell_next(turn, next_look_us(retry_us))

    async def _tell_next(self, turn: Turn, in_us: int) -> None:
        with contextlib.suppress(StoreUnavailable):  # it shows again by itself
            await self._store.next_turn(turn, in_us)

    async def _wake(self, account_id: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # its turn comes all the same
            await self._store.wake(account_id)

    async def _end(self, job: Job, owner: str, over: Over) -> None:
        """Tell the store how it ended, for as long as it takes to reach it."""
        end = self._store.end
        state = await self._surely(lambda: end(job.account, job.id, owner, over), job)
        if state is not over.state:
            log.warning("job_result_late", job=job.id, account=job.account)
            return
        self._counted[over.state] += 1
        log.info("job_ended", job=job.id, account=job.account, state=over.state,
                 reason=over.reason)  # fmt: skip

    async def _surely(self, ask: Callable[[], Awaitable[T]], job: Job) -> T | None:
        """What the store says, asked for as long as it takes to reach it; None: for too long."""
        for pause in (*STORE_RETRIES, None):
            try:
                return await ask()
            except StoreUnavailable as error:
                if pause is None:
                    log.error("job_result_lost", job=job.id,
                              account=job.account, error=str(error))  # fmt: skip
                    return None
            await asyncio.sleep(pause)
        return None

    async def _interrupted(self, run: _Run) -> None:
        """We are stopped while it runs: another sidecar runs it again, if it may."""
        job = run.job
        try:
            if job.delivery == "at-least-once":
                await self._store.give_back(job, run.owner)
                await self._store.wake(job.account)
            else:
                await self._store.end(
                    job.account, job.id, run.owner, Over(JobState.FAILED, JobEnd.LOST)
                )
                self._counted[JobState.FAILED] += 1
        except StoreUnavailable as error:
            log.warning("job_abandoned", job=job.id, account=job.account, error=str(error))

    # what runs is leased

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / RENEWALS)
            for run in list(self._runs.values()):
                try:
                    kept = await self._store.keep(run.job, run.owner)
                except StoreUnavailable:
                    continue
                if not kept and self._runs.get(run.owner) is run:
                    log.warning("job_lease_lost", job=run.job.id)
                    run.lost = True
                    run.task.cancel()

    async def _keep_count(self) -> None:
        over = Over(JobState.FAILED, JobEnd.EXPIRED)
        while True:
            try:
                self.counts = counts = await self._store.count()
                for job_id, account in counts.overdue:
                    if await self._store.end(account, job_id, "", over) is over.state:
                        self._counted[over.state] += 1
            except StoreUnavailable as error:
                log.debug("job_count_failed", error=str(error))
            await asyncio.sleep(COUNT_SECONDS)

    # the end

    def hold(self) -> None:
        """Start no more."""
        self._stopping = True

    async def cut(self) -> None:
        """End what runs: jobs that may run again are given back."""
        self.hold()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _current() -> "asyncio.Task[None]":
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - called within one
    return task
