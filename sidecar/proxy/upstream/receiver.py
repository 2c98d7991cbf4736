"""What a connection to the upstream promises to whoever takes its answers, and in which order."""

from typing import Protocol

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.headers import Fields


class ResponseHead:
    """A response head. `length` is None when the body's end is not announced by a number."""

    __slots__ = ("content_encoding", "content_type", "fields", "length", "phrase", "status")

    def __init__(
        self,
        status: int,
        phrase: bytes,
        fields: Fields,
        length: int | None,
        content_type: bytes,
        content_encoding: bytes,
    ) -> None:
        self.status = status
        self.phrase = phrase
        self.fields = fields  # to be relayed
        self.length = length
        self.content_type = content_type
        self.content_encoding = content_encoding


class Receiver(Protocol):
    """Who receives a response: interim heads, one head, any body, then end, switched or failed."""

    method: str
    upgrade: bytes  # the protocol that was offered; b"" for none

    def response_interim(self, head: ResponseHead) -> None: ...
    def response_head(self, head: ResponseHead) -> None: ...
    def response_body(self, data: bytes) -> None: ...
    def response_flush(self) -> None: ...
    def response_end(self, trailers: Fields) -> None: ...
    def response_switched(self, rest: bytes) -> None: ...
    def response_failed(self, reason: OutcomeReason, detail: str) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...
    def client_stall_s(self, now: float) -> float:
        """For how many seconds its client has been waited for; 0 when it is not."""
        ...

    def preempt(self) -> None:
        """End, for the sake of others: the connection is dropped before this returns."""
        ...
