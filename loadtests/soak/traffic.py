"""The mix of sessions, and the start and end of the traffic."""

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

# (session, client, how many at once, seconds between two sessions)
MIX: Final[tuple[tuple[Session, Client, int, float], ...]] = (
    (correct_client.keep_alive, BEA, 3, 0.1),
    (correct_client.keep_alive, BEA_SECOND_KEY, 2, 0.1),
    (correct_client.keep_alive, OLGA, 1, 0.2),
    (correct_client.keep_alive, OPAL, 1, 0.2),
    (correct_client.keep_alive, TINA, 2, 0.2),
    (correct_client.bodyless_and_failing, BEA, 1, 0.2),
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
    (faulty_client.disconnects_early, BEA, 3, 0.05),
    (faulty_client.disconnects_in_upload, BEA, 1, 0.1),
    (faulty_client.disconnects_in_answer, BEA_SECOND_KEY, 1, 0.1),
    (faulty_client.disconnects_in_tunnel, OLGA, 1, 0.2),
    (faulty_client.reads_slowly, BEA_SECOND_KEY, 2, 0.2),
    (faulty_client.half_closes, BEA, 1, 0.2),
    (faulty_client.sends_invalid_http, BEA, 1, 0.1),
    (faulty_client.sends_invalid_chunk, BEA, 1, 0.2),
    (faulty_client.has_no_key, BEA, 1, 0.2),
    (faulty_client.sends_partial_head, BEA, 1, 0.2),
)


class Traffic:
    """The traffic of all clients of a run."""

    def __init__(self, port: int, observations: Observations, calm: asyncio.Event) -> None:
        self._port = port
        self._observations = observations
        self._calm = calm
        self._stopped = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all clients."""
        for session, client, copies, pause in MIX:
            user = VirtualUser(self._port, client, self._observations, self._calm)
            self._running += [
                asyncio.create_task(self._repeat(session, user, pause)) for _ in range(copies)
            ]

    async def each_once(self) -> None:
        """Run each kind of session once, so that what the sessions need exists afterwards."""
        for session, client, _, _ in MIX:
            await self._session(
                session, VirtualUser(self._port, client, self._observations, self._calm)
            )

    async def stop(self) -> None:
        """Let the current sessions end; each has a time limit."""
        self._stopped.set()
        await asyncio.gather(*self._running)

    async def _repeat(self, session: Session, user: VirtualUser, pause: float) -> None:
        while not self._stopped.is_set():
            await self._session(session, user)
            with suppress(TimeoutError):
                async with asyncio.timeout(user.random.uniform(0.5, 1.5) * pause):
                    await self._stopped.wait()

    async def _session(self, session: Session, user: VirtualUser) -> None:
        """Run one session and record its violations."""
        try:
            async with asyncio.timeout(SESSION_SECONDS):
                await session(user)
        except Unexpected as error:
            self._observations.record_violation(str(error))
        except TimeoutError:
            self._observations.record_violation(
                f"{session.__name__} had no end after {SESSION_SECONDS:.0f} s"
            )
        except OSError as error:
            self._observations.record_violation(f"{session.__name__}: {error}")
        except Ended:
            pass  # already recorded
