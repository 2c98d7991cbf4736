"""What is recorded of a response, for the report."""

import time
from collections import deque
from typing import Any

from quota_sidecar.contract import Decision, Fields, report, response_fields
from quota_sidecar.quota import Quota

NOT_SENT = 499  # the client got no response


class Recorded:
    """An allowed request from the decision to the end of its response.

    `keep_body`: bytes of the body that are kept, if the sidecar reads costs in it: its beginning,
    or the end of an event stream, where its usage is.
    """

    def __init__(self, decision: Decision, quota: Quota, keep_body: int) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.ended = False  # the response is complete
        self.client_left = False
        self._decision = decision
        self._quota = quota
        self._started = time.monotonic()
        self._fields: Fields = []
        self._keep_body = keep_body if "body" in decision.report else 0
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._stream = False
        self._cut = False

    def start(self, status: int, fields: Fields) -> None:
        """The response has begun."""
        self.status, self._fields = status, fields
        self._stream = any(
            name.lower() == "content-type" and value.startswith("text/event-stream")
            for name, value in fields
        )

    def add(self, part: bytes) -> None:
        """A part of the response's body."""
        self.bytes_out += len(part)
        if not self._keep_body or not part or (self._cut and not self._stream):
            return
        self._parts.append(part)
        self._size += len(part)
        while self._size > self._keep_body:
            self._cut = True
            gone = self._parts.popleft() if self._stream else self._parts.pop()
            self._size -= len(gone)

    def document(self, error: BaseException | None) -> bytes:
        """The report. `error`: raised by the application."""
        status, outcome = self.status, "ok"
        if self.client_left:
            outcome = "client_gone"
        elif error is not None and not isinstance(error, Exception):
            outcome = "cancelled"
        elif not status:
            status = 500  # sent by the server
        elif not self.ended:
            outcome = "upstream_broken"
        members: dict[str, Any] = {
            "outcome": outcome,
            "latency_ms": int((time.monotonic() - self._started) * 1000),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "begun": self.status > 0,
        }
        if self._quota.usage:
            members["usage"] = self._quota.usage
        if "headers" in self._decision.report:
            members["headers"] = response_fields(self._fields)
        if self._keep_body:
            members |= self._body()
        return report(self._decision, status or NOT_SENT, **members)

    def _body(self) -> dict[str, Any]:
        """The kept part of the body as text, without the first event if it is cut."""
        data = b"".join(self._parts)
        if self._stream and self._cut:
            data = data.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
        complete = self.ended and (self._stream or not self._cut)
        try:
            return {"body": data.decode(), "body_complete": complete}
        except UnicodeDecodeError:
            return {"body_complete": False}
