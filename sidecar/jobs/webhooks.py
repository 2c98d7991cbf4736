"""Webhooks: one signed POST per ended job, retried for about an hour.

The URL is the account's, from the plan file or its record, never a client's. It may still be
hostile, so only https is used, redirects are not followed, and private addresses are refused.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sidecar.core.jobs.document import job_document
from sidecar.core.jobs.job import Job
from sidecar.core.jobs.webhook_signing import (
    account_secret,
    is_public,
    next_retry_us,
    signature_fields,
)
from sidecar.core.model import MICRO, Account
from sidecar.core.text import instant
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.ports import DueItem, JobStore

if TYPE_CHECKING:
    import aiohttp

log = logger("webhooks")

POLL_S: Final = 1.0
AT_ONCE: Final = 8
TIMEOUT_S: Final = 10.0
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
_SUCCESS: Final = range(200, 300)


class WebhookRejected(Exception):
    """The URL must not be requested; `str()` is the cause, for the log."""


class WebhookSender:
    """Sender of webhooks. `run` must run in a task. `counted` counts tries by outcome."""

    def __init__(
        self,
        store: JobStore,
        account_of: Callable[[str], Awaitable[Account | None]],
        *,
        master: bytes,
        allow_private: bool,
        href: Callable[[str], str],
        now_s: Callable[[], int],
        counted: dict[str, int],
    ) -> None:
        self._store = store
        self._account_of = account_of
        self._master = master
        self._allow_private = allow_private
        self._href = href
        self._now_s = now_s
        self._counted = counted

    async def run(self) -> None:
        """Send due webhooks until cancelled."""
        session = _session(self._allow_private)
        try:
            while True:
                try:
                    webhooks = await self._store.take_due_webhooks(AT_ONCE)
                    await asyncio.gather(*(self._send(one, session) for one in webhooks))
                except StoreUnavailable as error:
                    log.debug("webhook_poll_failed", error=str(error))
                await asyncio.sleep(POLL_S)
        finally:
            await session.close()

    async def _send(self, webhook: DueItem, session: "aiohttp.ClientSession") -> None:
        job_id, _, account_id = webhook.name.partition("/")
        status = await self._store.find(account_id, job_id)
        account = await self._account_of(account_id)
        url = account.webhook if account is not None else None
        if status is None or url is None or status.job.state.is_open:
            await self._store.schedule_webhook(webhook, None)
            return
        error = await self._post(session, url, status.job)
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

    async def _post(self, session: "aiohttp.ClientSession", url: str, job: Job) -> str:
        """Return the cause of a failure; "" after a success."""
        import aiohttp

        body = json.dumps(message(job, self._href(job.id)), separators=(",", ":")).encode()
        secret = account_secret(self._master, job.account)
        headers = signature_fields(secret, f"{job.id}.ended", self._now_s(), body)
        headers["content-type"] = "application/json"
        try:
            check(url, allow_private=self._allow_private)
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return "" if response.status in _SUCCESS else f"HTTP status {response.status}"
        except WebhookRejected as error:
            return str(error)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return type(error).__name__  # its text may contain the URL, and the URL a secret


def message(job: Job, href: str) -> dict[str, Any]:
    """Return the body of a webhook: the document of `GET /-/jobs/{id}` without the result."""
    return {
        "type": f"job.{job.state}",
        "timestamp": instant(job.ended_us),
        "data": job_document(job, href),
    }


def check(url: str, *, allow_private: bool) -> None:
    """Raises WebhookRejected if the URL itself shows that it must not be requested.

    Host names are checked when they are resolved.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise WebhookRejected("the URL is not an https URL")
    if parts.username is not None or not parts.hostname:
        raise WebhookRejected("the URL has no host, or it contains a user")
    if allow_private:
        return
    try:
        public = is_public(parts.hostname)
    except ValueError:
        return  # a host name
    if not public:
        raise WebhookRejected("the address is not public")


def _session(allow_private: bool) -> "aiohttp.ClientSession":
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class PublicResolver(AbstractResolver):
        """Resolver of public addresses. The connection uses the addresses that it has checked."""

        def __init__(self) -> None:
            self._resolver = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            results = await self._resolver.resolve(host, port, family)
            allowed = [one for one in results if allow_private or is_public(one["host"])]
            if not allowed:
                raise OSError(f"{host} has no public address")
            return allowed

        async def close(self) -> None:
            await self._resolver.close()

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=PublicResolver(), limit=AT_ONCE, force_close=True),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "quota-sidecar"},
        auto_decompress=False,
    )
