"""One request as the client sent it: its head, and its body as it comes."""

from typing import Final, Protocol

from sidecar.core.jobs.prefer import wait_preference
from sidecar.proxy.headers import Fields

_NONE: Final[Fields] = []  # replaced, never changed
Values = tuple[bytes, ...]  # of a field, one for each line that it had


class BodyReceiver(Protocol):
    """Who receives a request's body, in this order: pieces, flushes between, then end or broken."""

    def body_piece(self, data: bytes) -> None: ...
    def body_flush(self) -> None: ...
    def body_end(self, trailers: Fields) -> None: ...
    def body_broken(self) -> None: ...


class Request:
    """The head is complete when a Request is handed out; the body may still be on its way.

    Until `attach` body bytes are held back (the connection stops reading, so at most one
    read's worth); afterwards they go straight to the exchange.
    """

    # Values that most requests keep; only what a request has of its own is set on it.
    method = ""
    target = b""  # in origin or asterisk form, whatever form it came in
    http10 = False
    close = False  # the client's wish: no further request on this connection
    api_keys: Values = ()
    authorizations: Values = ()
    connection: Values = ()
    forwarded: Values = ()
    forwarded_for: Values = ()
    forwarded_host: Values = ()
    forwarded_proto: Values = ()
    host: Values = ()
    idempotency_keys: Values = ()
    prefer: Values = ()
    te: Values = ()
    traceparents: Values = ()
    upgrade: Values = ()
    via: Values = ()
    accept = b""
    content_type = b""
    content_encoding = b""
    content_length: int | None = None
    max_forwards: int | None = None
    chunked = False
    expects_continue = False
    body_bytes = 0  # received so far
    complete = False
    discarding = False
    broken = False  # the rest of the body will not come
    admitted = ""  # the id under which it was, once it was
    begun = False  # some of its answer has gone to the client
    answered = False  # all of it has
    received = 0.0  # loop time of the head's last byte; 0 before
    _buffered: tuple[bytes, ...] | list[bytes] = ()

    def __init__(self, peer: str) -> None:
        self.peer = peer  # the other end of the connection
        self.address = peer  # of the client: the peer, or what a trusted peer says of it
        self.fields: Fields = []  # to be forwarded, as received
        self.waiting = False  # it is held until its limits let it go on
        self.trailers: Fields = _NONE
        self._receiver: BodyReceiver | None = None

    @property
    def size(self) -> int:
        """Bytes that are held of it: its fields, and what has come of its body."""
        return sum(len(line) for _, line in self.fields) + sum(map(len, self._buffered))

    @property
    def patience_us(self) -> int | None:
        """For how long the client wants to wait at most; None when it does not say."""
        return wait_preference(self.prefer)

    @property
    def has_body(self) -> bool:
        """Whether the head announces a body (RFC 9112, section 6.3)."""
        return self.chunked or bool(self.content_length)

    def named_fields(self) -> Fields:
        """Those that are forwarded, and the length, which is told anew."""
        if self.content_length is None:
            return self.fields
        return [*self.fields, (b"content-length", b"Content-Length: %d" % self.content_length)]

    @property
    def flowing(self) -> bool:
        """Whether somebody takes the body."""
        return self._receiver is not None or self.discarding

    def feed(self, data: bytes) -> None:
        """Body bytes from the parser."""
        self.body_bytes += len(data)
        if self._receiver is not None:
            self._receiver.body_piece(data)
        elif not self.discarding:
            self._buffered = [*self._buffered, data]

    def flush(self) -> None:
        """One read of the client has been parsed, and the body is not whole."""
        if self._receiver is not None:
            self._receiver.body_flush()

    def end(self) -> None:
        """The body is whole."""
        self.complete = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.body_end(self.trailers)

    def take_buffered(self) -> list[bytes]:
        """The bytes held back so far; they are the caller's now."""
        held, self._buffered = self._buffered, ()
        return list(held)

    @property
    def held(self) -> tuple[bytes, ...] | list[bytes]:
        """The bytes held back so far, for a look."""
        return self._buffered

    def put_back(self, body: list[bytes]) -> None:
        """Hold bytes that were taken for a look: they are forwarded as if they had just come."""
        self._buffered = [*body, *self._buffered]

    def attach(self, receiver: BodyReceiver) -> None:
        """Send what comes from now on to `receiver`."""
        self._receiver = receiver

    def detach(self) -> None:
        """Hold what comes from now on."""
        self._receiver = None

    def fail_body(self) -> None:
        """The rest of the body is malformed, too large or overdue."""
        self.broken = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.body_broken()

    def discard(self) -> None:
        """Nobody wants the rest: bytes are counted and dropped."""
        self._buffered = ()
        self._receiver = None
        self.discarding = True
