"""ASGI middleware: Starlette, FastAPI, Litestar, Django and others. Needs asyncio."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import quote

from quota_sidecar.async_client import AsyncClient, LoopClients
from quota_sidecar.contract import (
    Decision,
    Fields,
    NoDecision,
    Refusal,
    is_identity,
    malformed,
    question,
    unavailable,
)
from quota_sidecar.options import Options
from quota_sidecar.outcome import Recorded
from quota_sidecar.quota import CURRENT, Quota

log = logging.getLogger("quota_sidecar")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SWITCHING: Final = 101
# With these, the server sends a file whose bytes are not seen here.
_UNSEEN: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_RawFields = list[tuple[bytes, bytes]]


class QuotaMiddleware:
    """Asks before each request and WebSocket, and reports how it ended.

    The application finds the `Quota` in `scope["state"]["quota"]` (`request.state.quota`), and by
    `current()`.
    """

    def __init__(self, app: App, options: Options | None = None) -> None:
        self._app = app
        self._options = options or Options()
        self._clients = LoopClients(self._options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] in ("http", "websocket"):
            await self._request(dict(scope), receive, send)
        else:
            await self._app(scope, receive, send)

    async def close(self) -> None:
        """Send the reports that wait. The end of the lifespan does it, if the server has one."""
        await self._clients.close()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the last reports at the end; also for applications without lifespan events."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"].startswith("lifespan.shutdown."):
                await self.close()
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            if begun:
                raise
            log.debug("the application has no lifespan events", exc_info=True)
            await sent({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await sent({"type": "lifespan.shutdown.complete"})

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._clients.get()
        exchange = _Exchange(scope, receive, send)
        given: _RawFields = scope["headers"]
        scope["headers"] = [one for one in given if not is_identity(one[0].decode("latin-1"))]
        try:
            answer: Decision | Refusal | None = await self._decide(client, exchange, given)
        except NoDecision as error:
            log.error("no decision: %s", error)
            opens = self._options.is_open(scope["path"])
            answer = None if opens else unavailable()
        if exchange.gone:
            return
        if isinstance(answer, Refusal):
            await _refuse(scope, send, answer)
            return
        quota = Quota(answer)
        scope.setdefault("state", {})["quota"] = quota
        token = CURRENT.set(quota)
        try:
            if answer is None:
                await self._app(scope, exchange.receive, send)
            else:
                await self._forward(client, exchange, answer, quota)
        finally:
            CURRENT.reset(token)

    async def _decide(
        self, client: AsyncClient, exchange: "_Exchange", given: _RawFields
    ) -> Decision | Refusal:
        scope, options = exchange.scope, self._options
        try:
            fields = [(name.decode(), value.decode()) for name, value in given]
            path = _path_of(scope)
        except UnicodeDecodeError:
            return malformed()
        body, complete = await exchange.read_ahead(options.read_body)
        peer = scope.get("client")
        try:
            document = question(
                scope.get("method", "GET"), path, fields, address=peer[0] if peer else "",
                body=body, body_complete=complete, wait_ms=options.wait_ms,
            )  # fmt: skip
        except ValueError:
            return malformed()
        if exchange.gone:
            return unavailable()
        return await client.decide(document)

    async def _forward(
        self, client: AsyncClient, exchange: "_Exchange", decision: Decision, quota: Quota
    ) -> None:
        scope = exchange.scope
        fields: _RawFields = scope["headers"]
        if "body" in decision.report:  # it is read, so it must not be encoded
            fields = [one for one in fields if one[0].lower() != b"accept-encoding"]
        scope["headers"] = fields + _raw(decision.request_headers)
        extensions = scope.get("extensions") or {}
        scope["extensions"] = {k: v for k, v in extensions.items() if k not in _UNSEEN}
        recorded = Recorded(decision, quota, self._options.keep_body)
        exchange.record(recorded, _raw(decision.response_headers))
        error: BaseException | None = None
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            recorded.bytes_in = exchange.bytes_in
            client.settle(recorded.document(error))


class _Exchange:
    """The messages of one request between the server and the application."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.gone = False  # the client left
        self.bytes_in = 0
        self._receive = receive
        self._send = send
        self._ahead: list[Message] = []  # received before the application asked
        self._waits = False  # the application waits for a message
        self._has_body = any(
            name.lower() == b"transfer-encoding"
            or (name.lower() == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )
        self._recorded: Recorded | None = None
        self._fields: _RawFields = []

    def record(self, recorded: Recorded, fields: _RawFields) -> None:
        """Record the response, and set these fields in it."""
        self._recorded, self._fields = recorded, fields

    async def read_ahead(self, most: int) -> tuple[str | None, bool]:
        """The body as text if it is small; and whether nothing of the body is missing."""
        if self.scope["type"] != "http" or not self._has_body:
            return None, True
        length = [v for name, v in self.scope["headers"] if name.lower() == b"content-length"]
        if len(length) != 1 or not length[0].isdigit() or int(length[0]) > most:
            return None, False
        parts = []
        more = True
        while more:
            message = await self._next()
            self._ahead.append(message)
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        try:
            return b"".join(parts).decode(), True
        except UnicodeDecodeError:
            return None, False

    async def receive(self) -> Message:
        """The application's `receive`."""
        if self._ahead:
            return self._ahead.pop(0)
        self._waits = True
        try:
            return await self._next()
        finally:
            self._waits = False

    async def _next(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self.bytes_in += len(message.get("body", b""))
            self._has_body = message.get("more_body", False)
        elif kind == "websocket.receive":
            self.bytes_in += _size(message)
        elif kind == "websocket.disconnect":
            self._end()
        elif kind == "http.disconnect":
            self.gone = True
            if self._recorded is not None and not self._recorded.ended:
                self._recorded.client_left = True
        return message

    async def send(self, message: Message) -> None:
        """The application's `send`."""
        recorded, kind = self._recorded, message["type"]
        assert recorded is not None  # noqa: S101 - set by record()
        if kind in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
            fields = list(message.get("headers", ()))
            names = {name.lower() for name, _ in self._fields}
            fields = [one for one in fields if one[0].lower() not in names] + self._fields
            message = {**message, "headers": fields}
            if kind == "http.response.start":
                await self._look_for_client()
        elif kind == "http.response.body" and not message.get("more_body", False):
            await self._look_for_client()
        try:
            await self._send(message)
        except OSError:
            recorded.client_left = not recorded.ended
            raise
        self._record(recorded, message)

    def _record(self, recorded: Recorded, message: Message) -> None:
        kind = message["type"]
        if recorded.client_left:
            return
        if kind in ("http.response.start", "websocket.http.response.start"):
            recorded.start(message["status"], _texts(message["headers"]))
        elif kind in ("http.response.body", "websocket.http.response.body"):
            recorded.add(message.get("body", b""))
            recorded.ended = not message.get("more_body", False)
        elif kind == "websocket.accept":
            recorded.start(SWITCHING, _texts(message["headers"]))
        elif kind == "websocket.send":
            recorded.bytes_out += _size(message)
        elif kind == "websocket.close":
            if not recorded.status:
                recorded.status = 403  # sent by the server
            self._end()

    def _end(self) -> None:
        if self._recorded is not None:
            self._recorded.ended = True

    async def _look_for_client(self) -> None:
        """Notice a client that left while the application did not look at `receive`.

        After the request's body, only http.disconnect can come. An answer to it is at hand at once.
        """
        for _ in range(2):  # a request without a body has one empty message
            if self._has_body or self._waits or self.gone:
                return
            task = asyncio.ensure_future(self._next())
            await asyncio.sleep(0)
            if not task.done():
                task.cancel()
                return
            self._ahead.append(task.result())


async def _refuse(scope: Scope, send: Send, refusal: Refusal) -> None:
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})  # the server answers 403
            return
    fields = [*_raw(refusal.headers), (b"content-length", b"%d" % len(refusal.body))]
    body = b"" if scope.get("method") == "HEAD" else refusal.body
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": fields})
    await send({"type": f"{kind}.body", "body": body})


def _path_of(scope: Scope) -> str:
    """The path as the client sent it, with its query. Raises UnicodeDecodeError."""
    raw: bytes | None = scope.get("raw_path")
    path = raw.decode() if raw else quote(scope["path"], safe="/:@!$&'()*+,;=~")
    query: bytes = scope.get("query_string", b"")
    return f"{path}?{query.decode()}" if query else path


def _raw(fields: Fields) -> _RawFields:
    return [(name.lower().encode(), value.encode()) for name, value in fields]


def _texts(fields: _RawFields) -> Fields:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _size(message: Message) -> int:
    return len(message.get("bytes") or b"") or len((message.get("text") or "").encode())
