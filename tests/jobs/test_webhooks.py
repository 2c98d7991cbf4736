"""How long a webhook is retried: by the time since the job's end, not since it was accepted."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sidecar.core.jobs.job import Job, JobState, JobStatus
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account
from sidecar.jobs.webhooks import WebhookSender
from sidecar.outbound import OutboundClient
from sidecar.ports import DueItem
from tests.support.job_stage import a_job
from tests.support.servers import free_port

ACCEPTED_US, ENDED_US = 1_000 * MICRO, 90_000 * MICRO


class WebhooksInMemory:
    """The part of `ports.JobStore` that a sender uses."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scheduled: list[int | None] = []

    async def find(self, _account_id: str, _job_id: str) -> JobStatus | None:
        return JobStatus(self.job, 0)

    async def schedule_webhook(self, _webhook: DueItem, in_us: int | None) -> None:
        self.scheduled.append(in_us)


async def send(job: Job, now_us: int) -> tuple[list[int | None], Counter[str]]:
    """Try a webhook whose server is not there: when it is tried again, and the counts."""
    store, counted = WebhooksInMemory(job), Counter[str]()
    account = Account("acme", "free", webhook=f"http://127.0.0.1:{free_port()}/hook")
    client = OutboundClient(allow_private=True)

    async def account_of(_account_id: str) -> Account | None:
        return account

    any_store: Any = store  # it has only the methods that a sender uses
    sender = WebhookSender(
        any_store,
        account_of,
        master=b"m" * 32,
        client=client,
        href=lambda job_id: f"/-/jobs/{job_id}",
        now_s=lambda: now_us // MICRO,
        counted=counted,
    )
    try:
        await sender._send(DueItem(f"{job.id}/acme", 1, now_us))
    finally:
        await client.close()
    return store.scheduled, counted


ENDED = replace(
    a_job("j1"), state=JobState.DONE, accepted_us=ACCEPTED_US, started_us=ENDED_US,
    ended_us=ENDED_US,
)  # fmt: skip


@pytest.mark.parametrize(("after_s", "retry_us"), [(1, 5 * MICRO), (6, 30 * MICRO), (5_000, None)])
async def test_a_job_that_waited_for_a_day_has_all_retries_of_its_webhook(
    after_s: int, retry_us: int | None
) -> None:
    scheduled, counted = await send(ENDED, ENDED_US + after_s * MICRO)
    assert (scheduled, counted) == ([retry_us], {"failed": 1})


async def test_a_job_that_has_not_ended_has_no_webhook() -> None:
    open_job = replace(ENDED, state=JobState.RUNNING, ended_us=0)
    scheduled, counted = await send(open_job, ENDED_US)
    assert (scheduled, counted) == ([None], {})
