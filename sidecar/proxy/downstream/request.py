"""One request as the client sent it: its head, and its body as it arrives."""

from typing import Final, Protocol

from sidecar.core.jobs.prefer import wait_preference
from sidecar.ports import Trace
from sidecar.proxy.headers import Fields

_NO_FIELDS: Final[Fields] = []  # replaced, never changed
Values = tuple[bytes, ...] | list[bytes]  # of a field, one per line


class BodyReceiver(Protocol):
    """The receiver of a body: pieces, with flushes between them, then its end or `body_broken`."""

    def body_piece(self, data: bytes) -> None: ...
    def body_flush(self) -> None: ...
    def body_end(self, trailers: Fields) -> None: ...
    def body_broken(self) -> None: ...


class Request:
    """A request whose head is complete, and whose body may still arrive.

    Body bytes are buffered until `attach`; the connection stops reading, so the buffer holds at
    most one read. After `attach`, they go straight to the receiver.
    """

    # More attributes than the interpreter keeps outside of a dictionary: it reads slots fast.
    __slots__ = (
        "_buffered", "_receiver", "accepts", "address", "admitted_id", "answered", "api_keys",
        "authorizations", "begun", "body_bytes", "broken", "chunked", "close", "complete",
        "connection", "content_encodings", "content_length", "content_type", "discarding",
        "expects_continue", "fields", "forwarded", "forwarded_for", "forwarded_host",
        "forwarded_proto", "host", "http10", "idempotency_keys", "max_forwards", "method",
        "most_wait_us", "peer", "prefer", "received", "target", "te", "trace", "traceparents",
        "tracestates", "trailers", "upgrade", "via", "waiting",
    )  # fmt: skip

    def __init__(self, peer: str) -> None:
        self.peer = peer  # address of the other end of the connection
        self.address = peer  # of the client: the peer, or the one that a trusted peer reports
        self.method = ""
        self.target = b""  # in origin or asterisk form, whatever form it came in
        self.http10 = False
        self.close = False  # the client sends no further request on this connection
        self.fields: Fields = []  # to be forwarded, as received
        self.trailers: Fields = _NO_FIELDS
        self.api_keys: Values = ()
        self.authorizations: Values = ()
        self.connection: Values = ()
        self.forwarded: Values = ()
        self.forwarded_for: Values = ()
        self.forwarded_host: Values = ()
        self.forwarded_proto: Values = ()
        self.host: Values = ()
        self.idempotency_keys: Values = ()
        self.prefer: Values = ()
        self.te: Values = ()
        self.traceparents: Values = ()
        self.tracestates: Values = ()
        self.upgrade: Values = ()
        self.via: Values = ()
        self.accepts: Values = ()
        self.content_type = b""
        self.content_encodings: Values = ()
        self.content_length: int | None = None
        self.max_forwards: int | None = None
        self.chunked = False
        self.expects_continue = False
        self.received = 0.0  # loop time of the head's last byte; 0 before
        self.body_bytes = 0  # received so far
        self.complete = False
        self.discarding = False
        self.broken = False  # the rest of the body will not arrive
        self.waiting = False  # in the wait queue
        self.most_wait_us: int | None = None  # by the sidecar's settings; None: as the plan allows
        self.trace: Trace | None = None  # if it is sampled
        self.admitted_id = ""  # its request id, once it is admitted
        self.begun = False  # some of its response is written
        self.answered = False  # all of its response is written
        self._buffered: Values = ()
        self._receiver: BodyReceiver | None = None

    @property
    def accept(self) -> bytes:
        """The value of Accept, of all its lines."""
        return b",".join(self.accepts)

    @property
    def content_encoding(self) -> bytes:
        """The value of Content-Encoding, of all its lines."""
        return b",".join(self.content_encodings)

    def add_value(self, attribute: str, value: bytes) -> None:
        """Add the value of a second or later line to one of the `Values`."""
        held = getattr(self, attribute)
        if isinstance(held, list):
            held.append(value)
        else:
            setattr(self, attribute, [*held, value])

    def add_trailer(self, lower: bytes, line: bytes) -> None:
        """Add a field of the trailers."""
        if self.trailers:
            self.trailers.append((lower, line))
        else:
            self.trailers = [(lower, line)]

    @property
    def size(self) -> int:
        """Bytes that the request keeps in memory: its fields and its buffered body."""
        return sum(len(line) for _, line in self.fields) + sum(map(len, self._buffered))

    @property
    def patience_us(self) -> int | None:
        """The longest wait that the client accepts (`Prefer: wait`); None if it gives none."""
        accepted, most = wait_preference(self.prefer), self.most_wait_us
        return accepted if most is None else min(most, most if accepted is None else accepted)

    @property
    def has_body(self) -> bool:
        """Whether the head announces a body (RFC 9112, section 6.3)."""
        return self.chunked or bool(self.content_length)

    def named_fields(self) -> Fields:
        """The forwarded fields and Content-Length, which is generated and not among them."""
        if self.content_length is None:
            return self.fields
        return [*self.fields, (b"content-length", b"Content-Length: %d" % self.content_length)]

    @property
    def flowing(self) -> bool:
        """Whether the body has a receiver, or is discarded."""
        return self._receiver is not None or self.discarding

    def feed(self, data: bytes) -> None:
        """Take body bytes from the parser."""
        self.body_bytes += len(data)
        if self._receiver is not None:
            self._receiver.body_piece(data)
        elif not self.discarding:
            self._buffer(data)

    def _buffer(self, data: bytes) -> None:
        buffered = self._buffered
        if isinstance(buffered, list):
            buffered.append(data)
        else:
            self._buffered = [*buffered, data]

    def flush(self) -> None:
        """Mark the end of one read from the client: it is parsed, and the body is incomplete."""
        if self._receiver is not None:
            self._receiver.body_flush()

    def end(self) -> None:
        """Mark the body as complete."""
        self.complete = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.body_end(self.trailers)

    def take_buffered(self) -> list[bytes]:
        """Take the buffered bytes."""
        buffered, self._buffered = self._buffered, ()
        return list(buffered)

    @property
    def buffered(self) -> Values:
        """The buffered bytes, which stay in the buffer."""
        return self._buffered

    def put_back(self, body: list[bytes]) -> None:
        """Put bytes that were read ahead back at the front of the buffer."""
        self._buffered = [*body, *self._buffered]

    def replace_body(self, body: bytes) -> None:
        """Forward `body` instead of the buffered one, which is complete."""
        self._buffered = [body]
        if not self.chunked:
            self.content_length = len(body)

    def attach(self, receiver: BodyReceiver) -> None:
        """Pass further body bytes to `receiver`."""
        self._receiver = receiver

    def detach(self) -> None:
        """Buffer further body bytes."""
        self._receiver = None

    def fail_body(self) -> None:
        """End the body: the rest of it is malformed, too large or late."""
        self.broken = True
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.body_broken()

    def discard(self) -> None:
        """Count and drop the rest of the body."""
        self._buffered = ()
        self._receiver = None
        self.discarding = True
