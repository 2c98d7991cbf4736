"""Who correct_client how often, and how the correct_client of a run are begun and ended."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from loadtests.soak import correct_client, faulty_client
from loadtests.soak.accounts import BEA, BEA_SECOND_KEY, CARLA, OLGA, OPAL, TINA, Client
from loadtests.soak.client import Ended
from loadtests.soak.observations import Observations
from loadtests.soak.virtual_user import Unexpected, VirtualUser

SESSION_SECONDS: Final = 30.0
Session = Callable[[VirtualUser], Awaitable[None]]

# (session, client, how many at once, seconds between two of one)
MIX: Final[tuple[tuple[Session, Client, int, float], ...]] = (
    (correct_client.keep_alive, BEA, 3, 0.1),
    (correct_client.keep_alive, BEA_SECOND_KEY, 2, 0.1),
    (correct_client.keep_alive, OLGA, 1, 0.2),
    (correct_client.keep_alive, OPAL, 1, 0.2),
    (correct_client.keep_alive, TINA, 2, 0.2),
    (correct_client.others, BEA, 1, 0.2),
    (correct_client.one_shot, BEA, 2, 0.05),
    (correct_client.one_shot, TINA, 1, 0.2),
    (correct_client.crowd, BEA, 1, 1.0),
    (correct_client.pipelined, BEA, 1, 0.2),
    (correct_client.pipelined, TINA, 1, 0.5),
    (correct_client.upload, BEA, 2, 0.2),
    (correct_client.upload, TINA, 1, 0.3),
    (correct_client.early, BEA, 1, 0.5),
    (correct_client.download, BEA_SECOND_KEY, 1, 0.3),
    (correct_client.streams, OLGA, 2, 0.1),
    (correct_client.slow, BEA, 3, 0.1),
    (correct_client.failures, BEA, 1, 0.2),
    (correct_client.critical, CARLA, 2, 0.1),
    (correct_client.tunnel, OLGA, 2, 0.1),
    (faulty_client.leaves_early, BEA, 3, 0.05),
    (faulty_client.leaves_in_upload, BEA, 1, 0.1),
    (faulty_client.leaves_in_answer, BEA_SECOND_KEY, 1, 0.1),
    (faulty_client.leaves_a_tunnel, OLGA, 1, 0.2),
    (faulty_client.reads_slowly, BEA_SECOND_KEY, 2, 0.2),
    (faulty_client.half_closes, BEA, 1, 0.2),
    (faulty_client.sends_no_http, BEA, 1, 0.1),
    (faulty_client.breaks_a_chunk, BEA, 1, 0.2),
    (faulty_client.has_no_key, BEA, 1, 0.2),
    (faulty_client.says_nothing, BEA, 1, 0.2),
)


class Traffic:
    """All clients of a run."""

    def __init__(self, port: int, observations: Observations, calm: asyncio.Event) -> None:
        self._port = port
        self._observations = observations
        self._calm = calm
        self._over = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, all at once."""
        for session, client, copies, pause in MIX:
            user = VirtualUser(self._port, client, self._observations, self._calm)
            self._running += [
                asyncio.create_task(self._go_on(session, user, pause)) for _ in range(copies)
            ]

    async def each_once(self) -> None:
        """One session of every kind: what is needed for them is there afterwards."""
        for session, client, _, _ in MIX:
            await self._session(
                session, VirtualUser(self._port, client, self._observations, self._calm)
            )

    async def stop(self) -> None:
        """Let the correct_client under way end; each has a time."""
        self._over.set()
        await asyncio.gather(*self._running)

    async def _go_on(self, session: Session, user: VirtualUser, pause: float) -> None:
        while not self._over.is_set():
            await self._session(session, user)
            with suppress(TimeoutError):
                async with asyncio.timeout(user.dice.uniform(0.5, 1.5) * pause):
                    await self._over.wait()

    async def _session(self, session: Session, user: VirtualUser) -> None:
        """Whatever happens in it, the next one comes."""
        try:
            async with asyncio.timeout(SESSION_SECONDS):
                await session(user)
        except Unexpected as error:
            self._observations.violate(str(error))
        except TimeoutError:
            self._observations.violate(
                f"{session.__name__} had no end after {SESSION_SECONDS:.0f} s"
            )
        except OSError as error:
            self._observations.violate(f"{session.__name__}: {error}")
        except Ended:
            pass  # noted where it was seen
