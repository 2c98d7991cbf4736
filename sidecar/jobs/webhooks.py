"""Tells accounts how their jobs ended: one signed POST, tried again for about an hour.

The address is the account's, as the plan file or its record has it, never a client's. It is a
stranger's all the same: https only, no redirects, and no address inside our own network.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sidecar.core.jobs.document import job_document
from sidecar.core.jobs.job import Job
from sidecar.core.jobs.webhook_signing import again_us, is_public, secret_for, signed
from sidecar.core.model import Account
from sidecar.core.text import instant
from sidecar.errors import StoreUnavailable
from sidecar.logs import logger
from sidecar.ports import JobStore, Turn

if TYPE_CHECKING:
    import aiohttp

log = logger("webhooks")

POLL_SECONDS: Final = 1.0
AT_ONCE: Final = 8
TIMEOUT_SECONDS: Final = 10.0
_DONE: Final = range(200, 300)


class WebhookRejected(Exception):
    """The address is none that we call; `str()` says why, for the log."""


class WebhookSender:
    """`run` has to run beside it. `counted` has told and failed tries, by the words."""

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
        """Tell what has ended, until cancelled."""
        session = _session(self._allow_private)
        try:
            while True:
                try:
                    turns = await self._store.untold(AT_ONCE)
                    await asyncio.gather(*(self._tell(turn, session) for turn in turns))
                except StoreUnavailable as error:
                    log.debug("webhook_poll_failed", error=str(error))
                await asyncio.sleep(POLL_SECONDS)
        finally:
            await session.close()

    async def _tell(self, turn: Turn, session: "aiohttp.ClientSession") -> None:
        job_id, _, account_id = turn.who.partition("/")
        found = await self._store.find(account_id, job_id)
        account = await self._account_of(account_id)
        url = account.webhook if account is not None else None
        if found is None or url is None or found.job.state.is_open:
            await self._store.told(turn, None)
            return
        why = await self._post(session, url, found.job)
        self._counted["failed" if why else "delivered"] += 1
        if not why:
            await self._store.told(turn, None)
            return
        again = again_us(turn.now_us - found.job.ended_us)
        log.warning("webhook_failed", job=job_id, account=account_id, error=why,
                    retry_in_s=again and again // 1_000_000)  # fmt: skip
        await self._store.told(turn, again)

    async def _post(self, session: "aiohttp.ClientSession", url: str, job: Job) -> str:
        """What went wrong; "" if nothing did."""
        import aiohttp

        body = json.dumps(message(job, self._href(job.id)), separators=(",", ":")).encode()
        secret = secret_for(self._master, job.account)
        headers = signed(secret, f"{job.id}.ended", self._now_s(), body)
        headers["content-type"] = "application/json"
        try:
            check(url, allow_private=self._allow_private)
            async with session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return "" if answer.status in _DONE else f"it answered {answer.status}"
        except WebhookRejected as error:
            return str(error)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return type(error).__name__  # its words may hold the address, and that a secret


def message(job: Job, href: str) -> dict[str, Any]:
    """The body of a webhook: what `GET /-/jobs/{id}` says, without the API's answer."""
    return {
        "type": f"job.{job.state}",
        "timestamp": instant(job.ended_us),
        "data": job_document(job, href),
    }


def check(url: str, *, allow_private: bool) -> None:
    """Raises WebhookRejected for an address that must not be called, as far as the URL shows;
    names are checked when they are resolved."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise WebhookRejected("only https is called")
    if parts.username is not None or not parts.hostname:
        raise WebhookRejected("the address has no host, or a user")
    if allow_private:
        return
    try:
        public = is_public(parts.hostname)
    except ValueError:
        return  # a name
    if not public:
        raise WebhookRejected("the address is not a public one")


def _session(allow_private: bool) -> "aiohttp.ClientSession":
    import aiohttp
    from aiohttp.abc import AbstractResolver, ResolveResult
    from aiohttp.resolver import ThreadedResolver

    class Public(AbstractResolver):
        """Names lead to public addresses, and the connection is made to the one looked at."""

        def __init__(self) -> None:
            self._names = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await self._names.resolve(host, port, family)
            kept = [one for one in found if allow_private or is_public(one["host"])]
            if not kept:
                raise OSError(f"{host} leads to no public address")
            return kept

        async def close(self) -> None:
            await self._names.close()

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=Public(), limit=AT_ONCE, force_close=True),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "quota-sidecar"},
        auto_decompress=False,
    )
