"""An upstream that records and checks every byte: real sockets, one thread, no HTTP library."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.http.strict_http import Incomplete, Message, NotStrict, take_request

SEND_SECONDS = 5.0
_NEVER_FORWARDED = ("keep-alive", "proxy-connection", "proxy-authorization")
# RFC 9110, section 6.5.1: no framing, routing, authentication or identity.
_NO_TRAILER = frozenset(
    b"connection content-encoding content-length content-range content-type cookie expect host "
    b"authorization proxy-authorization forwarded max-forwards te trailer transfer-encoding "
    b"upgrade via x-account-id x-api-key x-forwarded-for x-forwarded-host x-forwarded-proto "
    b"x-key-id x-plan x-request-id traceparent".split()
)


@dataclass(frozen=True)
class Answer:
    """The bytes of one response. `close`: the upstream closes after it."""

    data: bytes
    close: bool = False


def echo(request: Message) -> Answer:
    """A 200 with the target in its body, so that a client can identify the response."""
    body = b"seen " + request.target
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    return Answer(head if request.method == b"HEAD" else head + body)


@dataclass
class _Connection:
    number: int
    socket: socket.socket
    buffer: bytes = b""


@dataclass
class Recorder:
    """Records `requests`, `unfinished` ones, and `violations` of strict HTTP with their bytes.

    Read them after `settle`.
    """

    answer: Callable[[Message], Answer] = echo
    requests: list[tuple[int, Message]] = field(
        default_factory=list
    )  # with the connection's number
    unfinished: list[bytes] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    connections: int = 0  # accepted so far

    def start(self) -> "Recorder":
        """Listen on a free port of 127.0.0.1."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._knock, self._door = socket.socketpair()
        self._settled = threading.Event()
        self._stopping = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._door, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close everything. Idempotent."""
        if not self._stopping:
            self._stopping = True
            self._knock.send(b"x")
            self._thread.join(SEND_SECONDS * 2)

    def say(self, data: bytes, *, hang_up: bool = False) -> None:
        """Send further bytes on the connection of the last complete request."""
        number = self.requests[-1][0]
        for key in self._selector.get_map().values():
            if isinstance(key.data, _Connection) and key.data.number == number:
                key.data.socket.sendall(data)
                if hang_up:
                    key.data.socket.shutdown(socket.SHUT_WR)
                return
        raise AssertionError(f"connection {number} is closed")

    def settle(self) -> None:
        """Wait until all bytes that were sent before are read, parsed and answered."""
        self._settled.clear()
        self._knock.send(b"x")
        assert self._settled.wait(SEND_SECONDS * 2), "the recorder hangs"

    def forget(self) -> None:
        """Start a new record; connections stay."""
        self.settle()
        self.requests.clear()
        self.unfinished.clear()
        self.violations.clear()
        self.answer = echo

    @property
    def open(self) -> int:
        """The number of open connections."""
        return sum(isinstance(key.data, _Connection) for key in self._selector.get_map().values())

    @property
    def targets(self) -> list[bytes]:
        """The targets of the complete requests, in order of completion."""
        return [message.target for _, message in self.requests]

    def _run(self) -> None:
        while not self._stopping:
            self._turn(None)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr] # all of them are sockets
        self._knock.close()
        self._selector.close()

    def _turn(self, timeout: float | None) -> int:
        """Serve the sockets that are ready. Returns how many of the upstream's were."""
        knocked, served = False, 0
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._door:
                self._door.recv(64)
                knocked = True
            elif key.fileobj is self._listener:
                self._accept()
                served += 1
            else:
                self._read(key.data)
                served += 1
        if knocked:
            while self._turn(0):
                pass
            self._settled.set()
        return served

    def _accept(self) -> None:
        accepted, _ = self._listener.accept()
        accepted.settimeout(SEND_SECONDS)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        self._selector.register(
            accepted, selectors.EVENT_READ, _Connection(self.connections, accepted)
        )

    def _read(self, connection: _Connection) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = connection.socket.recv(1 << 18)
        if not data:
            if connection.buffer:
                self.unfinished.append(connection.buffer)
            self._close(connection)
            return
        connection.buffer += data
        try:
            while connection.buffer:
                self._take(connection)
        except Incomplete:
            return
        except NotStrict as error:
            self.violations.append(f"{error} in {connection.buffer[:400]!r}")
            self._close(connection)
        except OSError:  # the sidecar closed during the response
            self._close(connection)

    def _take(self, connection: _Connection) -> None:
        message = take_request(connection.buffer)
        connection.buffer = connection.buffer[len(message.raw) :]
        self.requests.append((connection.number, message))
        self.violations += [f"{flaw} in {message.raw[:400]!r}" for flaw in flaws(message)]
        answer = self.answer(message)
        connection.socket.sendall(answer.data)
        if answer.close:
            connection.buffer = b""
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if connection.socket.fileno() >= 0:
            self._selector.unregister(connection.socket)
            connection.socket.close()


def flaws(message: Message) -> list[str]:
    """Framing that RFC 9112 allows and a careful gateway never writes."""
    found = []
    if message.start[2] != b"HTTP/1.1":
        found.append("a version that is not the sidecar's own")
    if len({name.lower() for name, _ in message.fields if name.lower() == b"host"}) != 1:
        found.append("no Host")
    found += [
        "a length with leading zeros"
        for length in message.values("content-length")
        if length != b"%d" % int(length)
    ]
    found += [
        f"chunk line {line[:40]!r} is not bare"
        for line in message.chunk_lines
        if line.lower() != b"%x" % int(line.split(b";")[0], 16)
    ]
    found += [f"{name} is for one hop" for name in _NEVER_FORWARDED if message.values(name)]
    found += [
        f"{name!r} as a trailer" for name, _ in message.trailers if name.lower() in _NO_TRAILER
    ]
    return found + _flaws_of_the_hop(message)


def _flaws_of_the_hop(message: Message) -> list[str]:
    """Hop-by-hop fields that a gateway must not forward.

    Its own TE and Upgrade, named in Connection, are allowed (RFC 9110, sections 7.8 and 10.1.4).
    """
    named = {
        option.strip().lower()
        for value in message.values("connection")
        for option in value.split(b",")
    }
    te, upgrade = message.values("te"), message.values("upgrade")
    found = [f"Connection: {option!r}" for option in named - {b"te", b"upgrade"}]
    if (te not in ([], [b"trailers"])) or bool(te) != (b"te" in named):
        found.append(f"TE: {te}")
    if upgrade not in ([], [b"websocket"]) or bool(upgrade) != (b"upgrade" in named):
        found.append(f"Upgrade: {upgrade}")
    if upgrade and (message.body or message.values("transfer-encoding")):
        found.append("Upgrade with a body")
    return found
