"""The trace of one sampled request, collected as plain tuples until the request has ended."""

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.ports import EndedRequest

MAX_SPANS: Final = 32  # of one request; a request has at most about six


class Step(NamedTuple):
    """One step of a request's life. Times are ns since the epoch.

    `outcome` is "" or how the step ended; `status` is the HTTP status of the API, or 0.
    """

    name: str
    started_ns: int
    ended_ns: int
    outcome: str
    status: int
    failed: bool


class RequestTrace:
    """Implements `ports.Trace`. Spans are handed over together, once the response is written.

    `parent_id` is the client's span, "" for a new trace. `forward_id` is the id of the span that
    the upstream gets as its parent. `export` gets this trace, its new steps and, once, the end.
    """

    __slots__ = (
        "_ended",
        "_export",
        "_perf",
        "_steps",
        "_wall_ns",
        "forward_id",
        "parent_id",
        "root_id",
        "trace_id",
    )

    def __init__(
        self,
        trace_id: str,
        parent_id: str,
        forward_id: str,
        export: Callable[["RequestTrace", list[Step], tuple[Step, EndedRequest] | None], None],
    ) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.forward_id = forward_id
        self.root_id = os.urandom(8).hex()
        self._export = export
        self._steps: list[Step] = []
        self._ended = False
        self._perf = time.perf_counter()
        self._wall_ns = time.time_ns()

    def span(
        self, name: str, started: float, outcome: str = "", status: int = 0, *, failed: bool = False
    ) -> None:
        """Record a step that ends now. `started`: by `time.perf_counter`."""
        step = self._step(name, started, outcome, status, failed)
        if self._ended:  # a settlement that Redis confirmed after the response
            self._export(self, [step], None)
        elif len(self._steps) < MAX_SPANS:
            self._steps.append(step)

    def end(self, started: float, request: EndedRequest) -> None:
        """Record the request itself, and hand over all spans. Call it once.

        `started`: by `time.perf_counter`; 0: when this trace began.
        """
        steps, self._steps, self._ended = self._steps, [], True
        root = self._step(
            request.name,
            started or self._perf,
            request.outcome,
            request.status,
            request.status >= 500,
        )
        self._export(self, steps, (root, request))

    def _step(self, name: str, started: float, outcome: str, status: int, failed: bool) -> Step:
        return Step(name, self._at(started), self._at(time.perf_counter()), outcome, status, failed)

    def _at(self, perf: float) -> int:
        return self._wall_ns + int((perf - self._perf) * 1e9)
