"""One program that calls: opens connections, sends requests, checks and notes what comes back."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from loadtests.soak.accounts import Client
from loadtests.soak.client import Answer, Connection, Ended, connect
from loadtests.soak.observations import Observations


class Unexpected(Exception):
    """`str(error)` is a sentence: what a client got that it may not get."""


class VirtualUser:
    """Shared by all correct_client of one client.

    `calm` is set while clients may leave in the moment of a reservation; see `faults`.
    """

    def __init__(
        self, port: int, client: Client, observations: Observations, calm: asyncio.Event
    ) -> None:
        self.client = client
        self.observations = observations
        self.calm = calm
        self.dice = random.Random(client.key)
        self._port = port

    @asynccontextmanager
    async def connection(self, *, receive_buffer: int = 0) -> AsyncIterator[Connection]:
        """A connection for as long as the block lasts."""
        connection = await connect(self._port, receive_buffer=receive_buffer)
        try:
            yield connection
        finally:
            connection.close()

    def head(self, method: str, path: str, *fields: str) -> bytes:
        """A request's head, with this client's key."""
        lines = [f"{method} {path} HTTP/1.1", "Host: soak", f"X-Api-Key: {self.client.key}"]
        return "\r\n".join([*lines, *fields, "", ""]).encode()

    async def receive(
        self, connection: Connection, what: str, *, bodyless: bool = False, rest: float = 0.0
    ) -> Answer:
        """The next answer, noted.

        Raises Unexpected when the connection was closed without one, Ended when it was reset:
        then the answer was begun, and cut before any of it had come user.
        """
        try:
            answer = await connection.answer(bodyless=bodyless, rest=rest)
        except Ended as end:
            if end.clean:
                raise Unexpected(f"{what}: the connection was closed before an answer") from None
            self.observations.counts["reset"] += 1
            raise
        self.observations.note(answer, self.client.account)
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
        """One request and its answer, which is `expected` unless it is the sidecar's own.

        Raises Unexpected.
        """
        what = f"{method} {path}"
        if body:
            fields = (*fields, f"Content-Length: {len(body)}")
        connection.send(self.head(method, path, *fields) + body)
        answer = await self.receive(connection, what, bodyless=method == "HEAD", rest=rest)
        require_status(answer, what, expected)
        return answer

    async def continued(self, connection: Connection, path: str, body: bytes) -> Answer:
        """An upload that waits for leave (RFC 9110, section 10.1.1). Raises Unexpected."""
        fields = (f"Content-Length: {len(body)}", "Expect: 100-continue")
        connection.send(self.head("POST", path, *fields))
        if await connection.may_continue():
            connection.send(body)
        answer = await self.receive(connection, f"POST {path} after 100")
        require_status(answer, f"POST {path} after 100", 200)
        return answer


def require_status(answer: Answer, what: str, expected: int) -> None:
    """Raises Unexpected for a status that is neither the API's nor one of ours."""
    allowed = {429, 502, 503, 504} if answer.ours else {expected}
    if answer.status not in allowed:
        whose = "the sidecar" if answer.ours else "the API"
        raise Unexpected(f"{what}: {answer.status} from {whose}")


def require_body(answer: Answer, what: str, expected: bytes) -> None:
    """Raises Unexpected for a whole answer of the API's with another body, or a cut one that is
    not its beginning."""
    if answer.ours:
        return
    same = answer.body == expected if answer.whole else expected.startswith(answer.body)
    if not same:
        raise Unexpected(f"{what}: {len(answer.body)} bytes that are not those of the API")


def answered(answer: Answer) -> bool:
    """Whether the API gave it, to its end."""
    return not answer.ours and answer.whole
