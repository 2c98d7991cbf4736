"""Who visits how often, and how the visits of a run are begun and ended."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from loadtests.soak import rude, visits
from loadtests.soak.accounts import BEA, BEA_TOO, CARLA, OLGA, OPAL, TINA, Caller
from loadtests.soak.client import Ended
from loadtests.soak.ledger import Ledger
from loadtests.soak.visitor import Unexpected, Visitor

VISIT_SECONDS: Final = 30.0
Visit = Callable[[Visitor], Awaitable[None]]

# (visit, caller, how many at once, seconds between two of one)
CAST: Final[tuple[tuple[Visit, Caller, int, float], ...]] = (
    (visits.keep_alive, BEA, 3, 0.1),
    (visits.keep_alive, BEA_TOO, 2, 0.1),
    (visits.keep_alive, OLGA, 1, 0.2),
    (visits.keep_alive, OPAL, 1, 0.2),
    (visits.keep_alive, TINA, 2, 0.2),
    (visits.others, BEA, 1, 0.2),
    (visits.one_shot, BEA, 2, 0.05),
    (visits.one_shot, TINA, 1, 0.2),
    (visits.crowd, BEA, 1, 1.0),
    (visits.pipelined, BEA, 1, 0.2),
    (visits.pipelined, TINA, 1, 0.5),
    (visits.upload, BEA, 2, 0.2),
    (visits.upload, TINA, 1, 0.3),
    (visits.early, BEA, 1, 0.5),
    (visits.download, BEA_TOO, 1, 0.3),
    (visits.streams, OLGA, 2, 0.1),
    (visits.slow, BEA, 3, 0.1),
    (visits.failures, BEA, 1, 0.2),
    (visits.critical, CARLA, 2, 0.1),
    (visits.tunnel, OLGA, 2, 0.1),
    (rude.leaves_early, BEA, 3, 0.05),
    (rude.leaves_in_upload, BEA, 1, 0.1),
    (rude.leaves_in_answer, BEA_TOO, 1, 0.1),
    (rude.leaves_a_tunnel, OLGA, 1, 0.2),
    (rude.reads_slowly, BEA_TOO, 2, 0.2),
    (rude.half_closes, BEA, 1, 0.2),
    (rude.sends_no_http, BEA, 1, 0.1),
    (rude.breaks_a_chunk, BEA, 1, 0.2),
    (rude.has_no_key, BEA, 1, 0.2),
    (rude.says_nothing, BEA, 1, 0.2),
)


class Traffic:
    """All clients of a run."""

    def __init__(self, port: int, ledger: Ledger, calm: asyncio.Event) -> None:
        self._port = port
        self._ledger = ledger
        self._calm = calm
        self._over = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, all at once."""
        for visit, caller, copies, pause in CAST:
            here = Visitor(self._port, caller, self._ledger, self._calm)
            self._running += [
                asyncio.create_task(self._go_on(visit, here, pause)) for _ in range(copies)
            ]

    async def each_once(self) -> None:
        """One visit of every kind: what is needed for them is there afterwards."""
        for visit, caller, _, _ in CAST:
            await self._visit(visit, Visitor(self._port, caller, self._ledger, self._calm))

    async def stop(self) -> None:
        """Let the visits under way end; each has a time."""
        self._over.set()
        await asyncio.gather(*self._running)

    async def _go_on(self, visit: Visit, here: Visitor, pause: float) -> None:
        while not self._over.is_set():
            await self._visit(visit, here)
            with suppress(TimeoutError):
                async with asyncio.timeout(here.dice.uniform(0.5, 1.5) * pause):
                    await self._over.wait()

    async def _visit(self, visit: Visit, here: Visitor) -> None:
        """Whatever happens in it, the next one comes."""
        try:
            async with asyncio.timeout(VISIT_SECONDS):
                await visit(here)
        except Unexpected as error:
            self._ledger.surprise(str(error))
        except TimeoutError:
            self._ledger.surprise(f"{visit.__name__} had no end after {VISIT_SECONDS:.0f} s")
        except OSError as error:
            self._ledger.surprise(f"{visit.__name__}: {error}")
        except Ended:
            pass  # noted where it was seen
