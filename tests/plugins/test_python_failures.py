"""plugins/asgi against sidecars that fail: slow, broken, hostile, or of the wrong token."""

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from quota_sidecar import AsyncClient, NoDecision, Options, QuotaMiddleware, QuotaWsgiMiddleware
from quota_sidecar.contract import question
from quota_sidecar.sync_client import SyncClient
from starlette.responses import FileResponse

from tests.support.certificate_authority import Authority
from tests.support.stage import StartStage, stage
from tests.support.vectors import PLUGINS

__all__ = ["stage"]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ALLOW = {
    "decision": "allow", "id": "1", "reason": "ok", "request_id": "r", "account": "acme",
    "key": "k1", "plan": "pro", "route": "items", "class": "standard", "left": None, "report": [],
    "request_headers": {}, "response_headers": {},
}  # fmt: skip


def answer(document: dict[str, Any], status: int = 200) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Peer:
    """A server on a unix socket that answers each request with `answers`, one after the other."""

    def __init__(self, path: Path) -> None:
        self.options = Options(address=f"unix:{path}", timeout_s=0.2, pool=2)
        self.path = path
        self.answers: list[bytes] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.hangs = False
        self.arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.split("Content-Length: ")[1].split("\r\n")[0])
                document = json.loads(await reader.readexactly(length))
                self.asked.append((head.split(" ")[1], document))
                self.arrived.set()
                if self.hangs:
                    await reader.read()
                    break
                data = self.answers.pop(0) if self.answers else answer(ALLOW)
                writer.write(data)
                if not data.startswith(b"HTTP/1.1"):
                    break
        except EOFError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    found = Peer(tmp_path / "d.sock")
    async with await asyncio.start_unix_server(found.serve, str(found.path)):
        yield found


QUESTION = question("GET", "/v1/items", [("x-api-key", "acme")])


async def request(peer: Peer, **options: Any) -> tuple[list[dict[str, Any]], bool]:
    """Send GET /v1/items through the middleware. Returns what it sent, and if the app ran."""
    ran, sent = False, []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ran
        ran = True
        assert not [name for name, _ in scope["headers"] if name.startswith(b"x-account")]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    headers = options.pop("headers", [(b"x-account-id", b"buyer")])
    given = Options(address=peer.options.address, timeout_s=0.2, pool=2, **options)
    scope = {
        "type": "http", "method": "GET", "path": "/v1/items", "raw_path": b"/v1/items",
        "query_string": b"", "headers": headers,
    }  # fmt: skip
    middleware = QuotaMiddleware(app, given)
    await middleware(scope, receive, send)
    await middleware.close()
    return sent, ran


async def test_a_slow_sidecar_closes_or_opens_as_the_options_say(peer: Peer) -> None:
    peer.hangs = True
    sent, ran = await request(peer)
    assert (sent[0]["status"], ran) == (503, False)
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert (await request(peer, open=True))[1]
    assert (await request(peer, critical=["/v1/it*"]))[1]
    assert not (await request(peer, critical=["/v1/it"]))[1]


async def test_a_4xx_of_the_sidecar_is_never_open(peer: Peer) -> None:
    peer.answers = [answer({"title": "Unknown gateway"}, 401)]
    sent, ran = await request(peer, open=True)
    assert (sent[0]["status"], ran) == (400, False)


async def test_requests_that_cannot_be_checked_are_refused_without_asking(peer: Peer) -> None:
    sent, ran = await request(peer, open=True, headers=[(b"x-a", b"\xff")])
    assert (sent[0]["status"], ran) == (400, False)
    sent, ran = await request(peer, open=True, headers=[(b"x-a", b"1")] * 201)
    assert (sent[0]["status"], ran) == (400, False)
    assert not peer.asked


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n", answer({"decision": "allow"}), answer([]),  # type: ignore[arg-type]
        answer({}, 503), b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n", b"",
    ],
)  # fmt: skip
async def test_a_broken_answer_is_not_a_decision(peer: Peer, data: bytes) -> None:
    peer.answers = [data, data]
    client = AsyncClient(peer.options)
    with pytest.raises(NoDecision):
        await client.decide(QUESTION)
    await client.close()
    sync = SyncClient(peer.options)
    with pytest.raises(NoDecision):
        await asyncio.to_thread(sync.decide, QUESTION)
    assert len(peer.asked) == 2, "a decision that may have arrived is not repeated"


async def test_connections_are_kept_and_bounded(peer: Peer) -> None:
    client = AsyncClient(peer.options)
    await asyncio.gather(*(client.decide(QUESTION) for _ in range(20)))
    assert peer.connections <= 2
    await client.close()
    peer.connections = 0
    sync = SyncClient(peer.options)
    await asyncio.gather(*(asyncio.to_thread(sync.decide, QUESTION) for _ in range(20)))
    assert 1 <= peer.connections <= 2
    sync.close()


async def test_a_connection_that_the_sidecar_closed_is_not_used_again(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "d.sock")
    client, sync = AsyncClient(peer.options), SyncClient(peer.options)
    for _ in range(2):
        async with await asyncio.start_unix_server(peer.serve, str(peer.path)):
            await client.decide(QUESTION)
            await asyncio.to_thread(sync.decide, QUESTION)
            writers = asyncio.all_tasks() - {asyncio.current_task()}
            for task in writers:  # the connections of the server
                task.cancel()
            await asyncio.wait(writers)
        peer.path.unlink(missing_ok=True)
    await client.close()
    sync.close()


async def test_a_report_is_sent_three_times_at_most(peer: Peer) -> None:
    peer.answers = [answer({}, 503)] * 3 + [answer({}, 503)] * 3
    client = AsyncClient(peer.options)
    client.settle(b'{"id": "1"}')
    await client.close()
    assert (client.dropped, len(peer.asked)) == (1, 3)
    sync = SyncClient(peer.options)
    sync.settle(b'{"id": "1"}')
    await asyncio.to_thread(sync.close)
    assert (sync.dropped, len(peer.asked)) == (1, 6)
    peer.answers = [answer({}, 503)]
    sync.settle(b'{"id": "1"}')
    await asyncio.to_thread(sync.close)
    assert (sync.dropped, len(peer.asked)) == (1, 8)


async def test_the_queue_of_reports_is_bounded(peer: Peer) -> None:
    peer.hangs = True
    options = Options(address=peer.options.address, timeout_s=0.05, pool=1, queue=2, attempts=1)
    client = AsyncClient(options)
    for _ in range(5):
        client.settle(b'{"id": "1"}')
    assert client.dropped == 3
    await client.close()
    assert client.dropped == 5


async def test_the_end_of_the_lifespan_sends_the_last_reports(peer: Peer) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError  # as Django does
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def nothing(_: Any) -> None:
        return

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    middleware = QuotaMiddleware(app, peer.options)
    scope = {"type": "http", "method": "GET", "path": "/v1/items", "headers": []}
    await middleware(scope, receive, nothing)
    messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
    sent = []

    async def next_message() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await middleware({"type": "lifespan"}, next_message, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [path for path, _ in peer.asked] == ["/v1/decide", "/v1/settle"]


async def test_a_file_is_sent_so_that_its_bytes_are_counted(peer: Peer, tmp_path: Path) -> None:
    """Starlette leaves files to servers that offer to send them; their bytes are not seen then."""
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    messages = iter(({"type": "http.request", "body": b""},))

    async def receive() -> Any:
        """As a server: after the request, nothing comes until the client leaves."""
        for message in messages:
            return message
        return await asyncio.Event().wait()

    middleware = QuotaMiddleware(FileResponse(file), peer.options)
    scope = {
        "type": "http", "method": "GET", "path": "/v1/items", "headers": [],
        "extensions": {"http.response.pathsend": {}},
    }  # fmt: skip
    await middleware(scope, receive, send)
    await middleware.close()
    assert sent[1]["body"] == b"12345"
    report = peer.asked[1][1]
    assert (report["outcome"], report["bytes_out"]) == ("ok", 5)


async def test_a_wsgi_client_that_leaves_is_reported(peer: Peer) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"first", b"second"]

    def serve() -> None:
        """As a server does whose client left: it closes the response early."""
        result = QuotaWsgiMiddleware(app, peer.options)(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/items"}, lambda *_: lambda _: None
        )
        assert next(iter(result)) == b"first"
        result.close()  # type: ignore[attr-defined]

    peer.arrived.clear()
    await asyncio.to_thread(serve)
    while len(peer.asked) < 2:
        await asyncio.sleep(0.01)
    report = peer.asked[1][1]
    assert (report["status"], report["outcome"], report["bytes_out"]) == (200, "client_gone", 5)


FORKS = """
import os, sys
from quota_sidecar import Options, QuotaWsgiMiddleware

options = Options(address="unix:" + sys.argv[1], timeout_s=5)
middleware = QuotaWsgiMiddleware(lambda environ, start: [b"ok"], options)

def request():
    result = middleware({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: None)
    assert b"".join(result) == b"ok"
    result.close()
    middleware.close()

request()
child = os.fork()
request()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_forked_process_has_connections_and_threads_of_its_own(peer: Peer) -> None:
    """As with a server that loads the application before it forks."""
    program = [sys.executable, "-W", "ignore", "-c", FORKS, str(peer.path)]
    environment = os.environ | {"PYTHONPATH": str(PLUGINS / "asgi")}
    process = await asyncio.create_subprocess_exec(*program, env=environment)
    assert await process.wait() == 0
    assert sorted(path for path, _ in peer.asked) == ["/v1/decide"] * 3 + ["/v1/settle"] * 3


async def test_both_clients_ask_by_mutual_tls(stage: StartStage, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair, gateway = authority.issue("localhost"), authority.issue("gateway")
    here = await stage(
        decide="127.0.0.1:0", decide_tls_cert=str(pair.cert), decide_tls_key=str(pair.key),
        decide_client_ca=str(authority.cert),
    )  # fmt: skip
    assert here.app.decide is not None
    context = ssl.create_default_context(cafile=str(authority.cert))
    context.load_cert_chain(gateway.cert, gateway.key)
    options = Options(address=f"localhost:{here.app.decide.port.port}", ssl=context, timeout_s=10)
    client, sync = AsyncClient(options), SyncClient(options)
    assert (await client.decide(QUESTION)).reason == "ok"
    assert (await asyncio.to_thread(sync.decide, QUESTION)).reason == "ok"
    await client.close()
    sync.close()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("address", "sidecar"), ("address", "host:99999"), ("critical", "/v1/login"),
        ("critical", ["login"]), ("token", "a b"), ("token", "a\n"), ("attempts", 4),
        ("timeout_s", 0), ("pool", 0), ("queue", 0),
    ],
)  # fmt: skip
def test_wrong_options_name_the_option(member: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{member}: "):
        Options(**{member: value})
