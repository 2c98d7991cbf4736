"""One request as the client sent it: its head, and its body as it comes."""

from collections.abc import Callable

from sidecar.proxy.headers import Fields


class Request:
    """The head is complete when a Request exists; the body may still be on its way.

    Until `attach` body bytes are held back (the connection stops reading, so at most one
    read's worth); afterwards they go straight to the exchange.
    """

    __slots__ = (
        "_broken",
        "_deliver",
        "_held",
        "accept",
        "address",
        "api_keys",
        "authorizations",
        "body_bytes",
        "chunked",
        "close",
        "complete",
        "connection",
        "content_length",
        "expects_continue",
        "fields",
        "host",
        "http10",
        "method",
        "received",
        "target",
        "traceparents",
    )

    def __init__(self, address: str) -> None:
        self.address = address
        self.method = ""
        self.target = b""
        self.http10 = False
        self.close = False  # the client's wish: no further request on this connection
        self.fields: Fields = []  # to be forwarded, as received
        self.host: list[bytes] = []
        self.api_keys: list[bytes] = []
        self.authorizations: list[bytes] = []
        self.connection: list[bytes] = []
        self.traceparents: list[bytes] = []
        self.accept = b""
        self.content_length: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.body_bytes = 0  # received so far
        self.complete = False
        self.received = 0.0  # loop time of the head's last byte
        self._held: list[bytes] = []
        self._deliver: Callable[[bytes, bool], None] | None = None
        self._broken: Callable[[], None] | None = None

    @property
    def has_body(self) -> bool:
        """Whether the head announces a body (RFC 9112, section 6.3)."""
        return self.chunked or bool(self.content_length)

    @property
    def flowing(self) -> bool:
        """Whether somebody takes the body."""
        return self._deliver is not None

    def feed(self, data: bytes) -> None:
        """Body bytes from the parser."""
        self.body_bytes += len(data)
        if self._deliver is None:
            self._held.append(data)
        else:
            self._deliver(data, False)

    def end(self) -> None:
        """The body is whole."""
        self.complete = True
        if self._deliver is not None:
            self._deliver(b"", True)

    def take_held(self) -> list[bytes]:
        """The bytes held back so far; they are the caller's now."""
        held, self._held = self._held, []
        return held

    def attach(self, deliver: Callable[[bytes, bool], None], broken: Callable[[], None]) -> None:
        """Send what comes from now on to `deliver(data, is_last)`; `broken()` says that the
        rest will never come."""
        self._deliver = deliver
        self._broken = broken

    def break_off(self) -> None:
        """The rest of the body is malformed, too large or overdue."""
        if self._broken is not None:
            self._broken()

    def discard(self) -> None:
        """Nobody wants the rest: bytes are counted and dropped."""
        self._held.clear()
        self._deliver = _drop
        self._broken = None


def _drop(_data: bytes, _last: bool) -> None:
    pass
