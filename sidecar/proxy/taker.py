"""What a connection to the upstream promises to whoever takes its answers, and in which order."""

from dataclasses import dataclass
from typing import Protocol

from sidecar.core.settlement import OutcomeReason
from sidecar.proxy.headers import Fields


@dataclass(slots=True)
class ResponseHead:
    """A response head. `length` is None when the body's end is not announced by a number."""

    status: int
    phrase: bytes
    fields: Fields  # to be relayed
    length: int | None
    content_type: bytes
    content_encoding: bytes


class Taker(Protocol):
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
    def kept_waiting(self, now: float) -> float:
        """For how many seconds its client has been waited for; 0 when it is not."""
        ...

    def give_way(self) -> None:
        """End, for the sake of others: the connection is dropped before this returns."""
        ...
