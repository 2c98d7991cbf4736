"""The receiver of a response: the callbacks of an upstream connection, and their order."""

from typing import Protocol

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.headers import Fields


class ResponseHead:
    """A response head. `length` is the value of Content-Length, or None without that field."""

    __slots__ = (
        "announced", "content_encoding", "content_type", "dated", "fields", "length", "phrase",
        "status",
    )  # fmt: skip

    def __init__(
        self,
        status: int,
        phrase: bytes,
        fields: Fields,
        length: int | None,
        content_type: bytes,
        content_encoding: bytes,
        dated: bool,
        announced: list[bytes],
    ) -> None:
        self.status = status
        self.phrase = phrase
        self.fields = fields  # that are relayed
        self.length = length
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.dated = dated  # whether it has a Date
        self.announced = announced  # values of Trailer


class Receiver(Protocol):
    """Gets interim heads, then one head and its body, and at last end, switched or failed."""

    method: str
    upgrade: bytes  # the protocol that the request offers; b"" for none

    def response_continue(self) -> None: ...
    def response_interim(self, head: ResponseHead) -> None: ...
    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_flush(self) -> None: ...
    def response_end(self, trailers: Fields) -> None: ...
    def response_switched(self, rest: bytes) -> None: ...
    def response_failed(self, reason: OutcomeReason, detail: str) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...
    def client_stall_s(self, now: float) -> float:
        """For how many seconds the upstream has waited for the client; 0 if it does not wait."""
        ...

    def preempt(self) -> None:
        """End, because other requests need the connection. It is dropped before this returns."""
        ...


class UpstreamTunnel(Protocol):
    """The receiver of the upstream's bytes after a switch of protocols."""

    def from_upstream(self, data: bytes) -> None: ...
    def upstream_ended(self) -> None: ...
    def close(self) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...
