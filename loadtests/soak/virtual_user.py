"""A virtual user: opens connections, sends requests, checks and records the answers."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadtests.soak.accounts import Client
from loadtests.soak.client import Answer, Connection, Ended, connect
from loadtests.soak.observations import Observations


class Unexpected(Exception):
    """An answer that a client must not get; the text is a sentence."""


class VirtualUser:
    """What all sessions of one client share.

    `calm` is set while clients may disconnect during a reservation; see `faults`.
    """

    def __init__(
        self, port: int, client: Client, observations: Observations, calm: asyncio.Event
    ) -> None:
        self.client = client
        self.observations = observations
        self.calm = calm
        self.random = random.Random(client.key)
        self._port = port

    @asynccontextmanager
    async def connection(self, *, receive_buffer: int = 0) -> AsyncIterator[Connection]:
        """Open a connection for the duration of the block."""
        connection = await connect(self._port, receive_buffer=receive_buffer)
        try:
            yield connection
        finally:
            connection.close()

    def head(self, method: str, path: str, *fields: str) -> bytes:
        """The head of a request, with this client's API key."""
        lines = [f"{method} {path} HTTP/1.1", "Host: soak", f"X-Api-Key: {self.client.key}"]
        return "\r\n".join([*lines, *fields, "", ""]).encode()

    async def receive(
        self, connection: Connection, what: str, *, bodyless: bool = False, rest: float = 0.0
    ) -> Answer:
        """Read and record the next answer.

        Raises Unexpected if the connection was closed without one, Ended if it was reset: then the
        answer was cut before any of its bytes arrived.
        """
        try:
            answer = await connection.answer(bodyless=bodyless, rest=rest)
        except Ended as end:
            if end.clean:
                raise Unexpected(f"{what}: the connection was closed before an answer") from None
            self.observations.counts["reset"] += 1
            raise
        self.observations.record(answer, self.client.account)
        return answer

    async def request(
        self,
        connection: Connection,
        method: str,
        path: str,
        *fields: str,
        body: bytes = b"",
        expected: int = 200,
        rest: float = 0.0,
    ) -> Answer:
        """Send one request and read its answer.

        Raises Unexpected unless the status is `expected` or the sidecar gave the answer.
        """
        what = f"{method} {path}"
        if body:
            fields = (*fields, f"Content-Length: {len(body)}")
        connection.send(self.head(method, path, *fields) + body)
        answer = await self.receive(connection, what, bodyless=method == "HEAD", rest=rest)
        require_status(answer, what, expected)
        return answer

    async def upload_after_continue(self, connection: Connection, path: str, body: bytes) -> Answer:
        """Upload a body after 100 (RFC 9110, section 10.1.1). Raises Unexpected."""
        fields = (f"Content-Length: {len(body)}", "Expect: 100-continue")
        connection.send(self.head("POST", path, *fields))
        if await connection.may_continue():
            connection.send(body)
        answer = await self.receive(connection, f"POST {path} after 100")
        require_status(answer, f"POST {path} after 100", 200)
        return answer


def require_status(answer: Answer, what: str, expected: int) -> None:
    """Raise Unexpected for a status that neither the API nor the sidecar may give."""
    allowed = {429, 502, 503, 504} if answer.from_sidecar else {expected}
    if answer.status not in allowed:
        source = "the sidecar" if answer.from_sidecar else "the API"
        raise Unexpected(f"{what}: {answer.status} from {source}")


def require_body(answer: Answer, what: str, expected: bytes) -> None:
    """Raise Unexpected for a body of the API that differs from the expected one.

    An incomplete body must be the beginning of the expected one.
    """
    if answer.from_sidecar:
        return
    same = answer.body == expected if answer.whole else expected.startswith(answer.body)
    if not same:
        raise Unexpected(f"{what}: {len(answer.body)} bytes that are not those of the API")


def is_complete_from_api(answer: Answer) -> bool:
    """Whether the API gave the answer, and it is complete."""
    return not answer.from_sidecar and answer.whole
