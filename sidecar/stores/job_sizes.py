"""Bytes of the jobs of all accounts, bounded together.

Each account's slot has the exact sizes of its own jobs. Their sum over all accounts is in another
slot, so a change takes two steps. If the second one fails, an ended job counts until it expires,
and an open one until it ends.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sidecar.stores.connection.connect import Connection
from sidecar.stores.job_terms import JobNames, JobTerms, member_of, split_member
from sidecar.stores.scripts import run

MAX_ROUNDS: Final = 8  # in which ended jobs are dropped to make room
RESULT: Final = "result"
JOB: Final = "job"


class JobSizes:
    """The sizes of a workload's jobs. `dropped` counts dropped results and jobs."""

    def __init__(self, wire: Connection, names: JobNames, terms: JobTerms) -> None:
        self._wire = wire
        self._names = names
        self._terms = terms
        self.dropped: Counter[str] = Counter()

    async def set_ended(self, job_id: str, account_id: str, size: int) -> None:
        """Set the size of a job that has ended; then drop other ended jobs beyond the bound."""
        await self._drop(await self._weigh(member_of(job_id, account_id), size, "ended"))

    async def forget(self, job_id: str, account_id: str) -> None:
        """Remove a job that is not stored."""
        await self._weigh(member_of(job_id, account_id), 0, "ended")

    async def set_dropped(self, account_id: str, changes: Sequence[Any]) -> None:
        """Set the sizes of jobs that a script has dropped: a flat list of IDs and sizes."""
        pairs = zip(changes[::2], changes[1::2], strict=True)
        await asyncio.gather(
            *(self._set_dropped(job_id.decode(), account_id, size) for job_id, size in pairs)
        )

    async def make_room(self, members: Sequence[bytes]) -> None:
        """Drop ended jobs ("id/account"), so that another job fits."""
        await asyncio.gather(*map(self._drop_one, members))

    async def _drop(self, members: list[bytes]) -> None:
        for _ in range(MAX_ROUNDS):
            if not members:
                return
            more = await asyncio.gather(*map(self._drop_one, members))
            members = more[-1]

    async def _drop_one(self, member: bytes) -> list[bytes]:
        """Drop an ended job, or its result; return more that should be dropped."""
        job_id, account_id = split_member(member)
        names = (self._names.records(account_id), *self._names.stored(account_id))
        _, _, size = await run(self._wire, "jobs/trim", names, job_id)
        return await self._set_dropped(job_id, account_id, size)

    async def _set_dropped(self, job_id: str, account_id: str, size: int) -> list[bytes]:
        self.dropped[RESULT if size else JOB] += 1
        return await self._weigh(member_of(job_id, account_id), size, "stub")

    async def _weigh(self, member: str, size: int, state: str) -> list[bytes]:
        terms = self._terms
        _, _, _, *members = await run(
            self._wire, "jobs/weigh", (self._names.sizes, self._names.ended),
            member, size, state, terms.bytes_in_all, terms.ttl_ms,
        )  # fmt: skip
        return members
