"""Webhooks: one signed POST per ended job, retried for about an hour.

The URL is the account's, from the plan file or its record, never a client's. It may still be
hostile, so `outbound` sends the requests: over https, to public addresses, without redirects.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sidecar.core.jobs.document import job_document
from sidecar.core.jobs.job import Job
from sidecar.core.jobs.webhook_signing import (
    account_secret,
    next_retry_us,
    signature_fields,
)
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account
from sidecar.core.text import moment
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.outbound import OutboundClient, OutboundFailed, OutboundRefused
from sidecar.ports import DueItem, JobStore

log = logger("webhooks")

POLL_S: Final = 1.0
AT_ONCE: Final = 8
TIMEOUT_S: Final = 10.0
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
_SUCCESS: Final = range(200, 300)


class WebhookSender:
    """Sender of webhooks. `run` must run in a task. `counted` counts tries by outcome."""

    def __init__(
        self,
        store: JobStore,
        account_of: Callable[[str], Awaitable[Account | None]],
        *,
        master: bytes,
        client: OutboundClient,
        href: Callable[[str], str],
        now_s: Callable[[], int],
        counted: dict[str, int],
    ) -> None:
        self._store = store
        self._account_of = account_of
        self._master = master
        self._client = client
        self._href = href
        self._now_s = now_s
        self._counted = counted

    async def run(self) -> None:
        """Send due webhooks until cancelled."""
        try:
            while True:
                try:
                    webhooks = await self._store.take_due_webhooks(AT_ONCE)
                    sent = await asyncio.gather(*map(self._send, webhooks), return_exceptions=True)
                    for error in filter(None, sent):  # after all have been tried
                        raise error
                except StoreUnavailable as error:
                    log.debug("webhook_poll_failed", error=str(error))
                await asyncio.sleep(POLL_S)
        finally:
            await self._client.close()

    async def _send(self, webhook: DueItem) -> None:
        job_id, _, account_id = webhook.name.partition("/")
        status = await self._store.find(account_id, job_id)
        account = await self._account_of(account_id)
        url = account.webhook if account is not None else None
        if status is None or url is None or status.job.state.is_open:
            await self._store.schedule_webhook(webhook, None)
            return
        error = await self._post(url, status.job)
        self._counted[FAILED if error else DELIVERED] += 1
        if not error:
            await self._store.schedule_webhook(webhook, None)
            return
        retry_us = next_retry_us(webhook.now_us - status.job.ended_us)
        log.warning(
            "webhook_failed",
            job=job_id,
            account=account_id,
            error=error,
            retry_in_s=None if retry_us is None else retry_us // MICRO,
        )
        await self._store.schedule_webhook(webhook, retry_us)

    async def _post(self, url: str, job: Job) -> str:
        """Return the cause of a failure; "" after a success."""
        body = json.dumps(message(job, self._href(job.id)), separators=(",", ":")).encode()
        secret = account_secret(self._master, job.account)
        fields = signature_fields(secret, f"{job.id}.ended", self._now_s(), body)
        fields["content-type"] = "application/json"
        try:
            status = await self._client.post(url, body, fields)
        except (OutboundRefused, OutboundFailed) as error:
            return str(error)
        return "" if status in _SUCCESS else f"HTTP status {status}"


def message(job: Job, href: str) -> dict[str, Any]:
    """Return the body of a webhook: the document of `GET /-/jobs/{id}` without the result."""
    return {
        "type": f"job.{job.state}",
        "timestamp": moment(job.ended_us),
        "data": job_document(job, href),
    }
