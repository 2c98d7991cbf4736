"""Gateways at a sidecar's decide port: raw HTTP over its unix socket."""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.stage import Stage

Fields = dict[str, str]


@dataclass
class Answer:
    """A response of the decide port."""

    status: int
    fields: Fields
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]


@dataclass
class Gateway:
    """A connection to the decide port that is kept open."""

    path: str
    token: str = ""
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = field(default=None)

    async def send(self, data: bytes) -> Answer:
        """Send bytes and read one response."""
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(self.path)
        reader, writer = self._streams
        writer.write(data)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:-2])
            shown = dict(line.split(": ", 1) for line in lines[1:-2])
            body = await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            await self.close()
        return Answer(int(lines[0].split(" ")[1]), shown, body)

    async def ask(
        self, path: str, document: Any = None, method: str = "POST", **fields: str
    ) -> Answer:
        """Send a JSON document (bytes: as they are), or only header fields."""
        body = document if isinstance(document, bytes) else b""
        if document is not None and not isinstance(document, bytes):
            body = json.dumps(document).encode()
        if self.token:
            fields = {"X-Decide-Token": self.token} | fields
        head = f"{method} {path} HTTP/1.1\r\nHost: sidecar\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in fields.items())
        return await self.send(head.encode() + b"\r\n" + body)

    async def decide(self, method: str, path: str, key: str = "acme", **more: Any) -> Any:
        """The decision about a request with this API key."""
        headers = {"X-Api-Key": key} | more.pop("headers", {})
        document = {"method": method, "path": path, "headers": headers} | more
        answer = await self.ask("/v1/decide", document)
        assert answer.status == 200, answer
        return answer.document

    async def settle(self, decision: dict[str, Any], **report: Any) -> Answer:
        """Report the end of an allowed request."""
        return await self.ask("/v1/settle", {"id": decision["id"], "status": 200} | report)

    async def close(self) -> None:
        """Close the connection, and wait until it is closed."""
        if self._streams is not None:
            streams, self._streams = self._streams, None
            streams[1].close()
            with contextlib.suppress(ConnectionError):
                await streams[1].wait_closed()


async def requests(here: Stage) -> list[dict[str, Any]]:
    """The usage events so far."""
    return [event for event in await here.events() if event["type"] == "api.request.v1"]
