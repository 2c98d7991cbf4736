"""Settlements that arrive at another worker than the one that decided.

All workers share the decide port, and a gateway's connection reaches any of them. The id of a
decision ends with the number of its worker, which has a unix socket for the others. It serves
POST /v1/settle there, as on the decide port.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Final

MOST_IDLE: Final = 8  # connections kept to each worker
MOST_BUSY: Final = 64  # connections used at a time
TIMEOUT_S: Final = 2.0  # of one settlement
_MAX_ANSWER: Final = 1 << 20  # bytes
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class PeerUnavailable(Exception):
    """The worker that decided does not answer now."""


def peer_socket(directory: Path, worker: int) -> Path:
    """The socket of a worker, in the directory that all workers share."""
    return directory / f"decide-{worker}.sock"


class Peers:
    """Connections to the other workers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._idle: dict[int, list[_Streams]] = {}
        self._busy = asyncio.Semaphore(MOST_BUSY)

    async def settle(self, worker: int, document: bytes) -> bytes | None:
        """Return the worker's whole response to a settlement; None without such a worker.

        Without a process, its decisions have ended with it. Raises PeerUnavailable.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S), self._busy:
                return await self._ask(worker, document)
        except FileNotFoundError:
            return None
        except ConnectionRefusedError:
            return None
        except (TimeoutError, OSError, EOFError, ValueError) as error:
            raise PeerUnavailable(f"worker {worker}: {type(error).__name__}") from None

    async def _ask(self, worker: int, document: bytes) -> bytes:
        request = (
            b"POST /v1/settle HTTP/1.1\r\nHost: worker\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(document), document)
        )
        streams = self._take(worker)
        if streams is not None:
            try:
                return await self._exchange(worker, streams, request)
            except (ConnectionError, EOFError):
                pass  # it was idle for too long; a settlement may be repeated
        path = peer_socket(self._directory, worker)
        streams = await asyncio.open_unix_connection(path, limit=_MAX_ANSWER)
        return await self._exchange(worker, streams, request)

    def _take(self, worker: int) -> _Streams | None:
        idle = self._idle.get(worker)
        return idle.pop() if idle else None

    async def _exchange(self, worker: int, streams: _Streams, request: bytes) -> bytes:
        reader, writer = streams
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            response = head + await reader.readexactly(int(length))
        except BaseException:
            writer.close()
            raise
        idle = self._idle.setdefault(worker, [])
        if len(idle) < MOST_IDLE and b"\r\nconnection: close\r\n" not in head.lower():
            idle.append(streams)
        else:
            writer.close()
        return response

    async def close(self) -> None:
        """Close idle connections."""
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        self._idle.clear()
