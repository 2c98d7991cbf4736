"""Traffic in which every outcome that the dashboards show occurs."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request; of all requests, it is `weight` parts."""

    weight: float
    method: str
    target: str
    key: str | None  # API key; None: none
    fields: tuple[tuple[str, str], ...] = ()


_ASYNC: Final = (("Prefer", "respond-async"),)
KINDS: Final = (
    Kind(30, "GET", "/v1/items/1", "bea"),
    Kind(20, "POST", "/v1/chat", "bea"),
    Kind(18, "GET", "/v1/items/1", "paula"),
    Kind(12, "POST", "/v1/chat", "paula"),
    Kind(12, "GET", "/v1/items/1", "fred"),
    Kind(3, "POST", "/v1/login", "fred"),
    Kind(2, "POST", "/v1/chat", "fred"),  # a feature that the plan lacks
    Kind(4, "POST", "/v1/exports", "fred", _ASYNC),
    Kind(1, "POST", "/v1/exports?fault=error", "fred", _ASYNC),
    Kind(0.7, "POST", "/v1/chat?fault=none", "bea"),  # a cost that is not known
    Kind(0.7, "POST", "/v1/chat?fault=huge", "bea"),  # above the most that settles
    Kind(0.4, "GET", "/v1/items/1?fault=drop", "bea"),
    Kind(0.3, "POST", "/v1/login?fault=drop", "bea"),
    Kind(0.8, "GET", "/v1/items/1", "sue"),
    Kind(0.6, "GET", "/v1/items/1", "unknown"),
    Kind(0.6, "GET", "/v1/items/1", None),
)


class Traffic:
    """Requests at a rate to one data port, until `stop`; at most `at_once` are under way."""

    def __init__(self, url: str, rate: Callable[[], float], *, at_once: int = 64) -> None:
        self.sent = 0
        self._url = url
        self._rate = rate
        self._at_once = asyncio.Semaphore(at_once)
        self._random = random.Random(13)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Start no further request."""
        self._stopped.set()

    async def run(self) -> None:
        """Send requests, of each kind once at first, then at random by weight."""
        weights = [kind.weight for kind in KINDS]
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            asyncio.TaskGroup() as requests,
        ):
            while not self._stopped.is_set():
                [kind] = self._random.choices(KINDS, weights)
                if self.sent < len(KINDS):
                    kind = KINDS[self.sent]
                await self._at_once.acquire()
                requests.create_task(self._send(session, kind))
                self.sent += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), 1 / self._rate())

    async def _send(self, session: aiohttp.ClientSession, kind: Kind) -> None:
        fields = dict(kind.fields) | ({"X-Api-Key": kind.key} if kind.key else {})
        try:
            async with session.request(
                kind.method, self._url + kind.target, headers=fields, json={"max_tokens": 300},
                ssl=False,
            ) as answer:  # fmt: skip
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            pass  # a fault is part of the picture: the sidecar counts it
        finally:
            self._at_once.release()
