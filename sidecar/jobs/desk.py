"""The account's side of deferred jobs: to have a call queued, look at it, cancel it."""

from collections import Counter
from collections.abc import Callable

from sidecar.core.jobs.job import (
    Accepted,
    Delivery,
    Job,
    JobCall,
    JobState,
    JobStatus,
    NotAccepted,
    Once,
    Over,
)
from sidecar.core.model import Key
from sidecar.ports import JobStore


class Jobs:
    """Raises StoreUnavailable wherever the store is asked. `counted`: how many jobs this sidecar
    has accepted and ended, by state. `changed` hears of each new job."""

    def __init__(
        self,
        store: JobStore,
        *,
        delivery: Delivery,
        new_id: Callable[[], str],
        counted: Counter[str],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._delivery = delivery
        self._new_id = new_id
        self._changed = changed
        self._counted = counted

    async def accept(
        self, key: Key, digest: bytes, call: JobCall, once: Once | None, look_in_us: int
    ) -> Accepted | NotAccepted:
        """Queue a call of this key; `look_in_us`: a span after which it may fit."""
        job = Job(
            id=self._new_id(),
            account=key.account.id,
            key=key.id,
            digest=digest,
            delivery=self._delivery,
            method=call.method,
            target=call.target,
            call=call,
        )
        said = await self._store.add(job, once, look_in_us=look_in_us)
        if isinstance(said, Accepted) and not said.known:
            self._counted["accepted"] += 1
            self._changed()
        return said

    async def known(self, key: Key, name: str) -> tuple[str, str] | None:
        """The job that an Idempotency-Key stands for already, and the print of its call."""
        return await self._store.known(key.account.id, name)

    async def find(self, key: Key, job_id: str) -> JobStatus | None:
        """One of the account's own jobs."""
        return await self._store.find(key.account.id, job_id)

    async def cancel(self, key: Key, job_id: str) -> JobState | None:
        """Cancel a job that waits. The state in which it is now; None: there is none."""
        over = Over(JobState.CANCELLED, JobState.CANCELLED)
        state = await self._store.end(key.account.id, job_id, "", over)
        if state is JobState.CANCELLED:
            self._counted[state] += 1
            await self._store.wake(key.account.id)
        return state
