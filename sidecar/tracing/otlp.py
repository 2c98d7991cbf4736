"""Exports traces over OTLP and HTTP, with the OpenTelemetry SDK, in a thread of its own.

The only module that imports opentelemetry. The queue is bounded: if the receiver is slow or
unavailable, spans are dropped and counted, and requests do not notice.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from sidecar import __version__
from sidecar.core.trace_context import is_sampled, parse_parent
from sidecar.logs import logger
from sidecar.ports import EndedRequest
from sidecar.tracing.request_trace import RequestTrace, Step

log = logger("tracing")

MAX_QUEUE: Final = 4_096  # spans
MAX_BATCH: Final = 512
DELAY_MS: Final = 1_000  # at most, before a batch is sent
TIMEOUT_S: Final = 5.0  # of one batch, retries included
CLOSE_S: Final = 3.0  # to send the last spans
EXPORTED: Final = "exported"
FAILED: Final = "failed"
DROPPED: Final = "dropped"
SAMPLED: Final = "sampled"
LIMITED: Final = "limited"

Attach = Callable[[str, float, str], None]  # step, seconds, trace id


class _Ids(IdGenerator):
    """Ids that are set before each span: the request's own, which the upstream has already."""

    def __init__(self) -> None:
        self.trace_id = self.span_id = 1

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        return self.trace_id


class _CountingExporter(SpanExporter):
    """Counts what the receiver took, and logs when it stops and starts to answer."""

    def __init__(self, inner: SpanExporter, endpoint: str, counts: Counter[str]) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._counts = counts
        self._down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch. Runs in the exporter's thread."""
        result = SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            ok = result is SpanExportResult.SUCCESS
            self._counts[EXPORTED if ok else FAILED] += len(spans)
            if ok is self._down:
                self._down = not ok
                if ok:
                    log.info("trace_receiver_up", endpoint=self._endpoint)
                else:
                    log.warning(
                        "trace_receiver_down",
                        endpoint=self._endpoint,
                        remedy="check --trace-endpoint, and the receiver's log",
                    )
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class OtlpTracer:
    """Implements `ports.Tracer`.

    `ratio`: part of the new traces that are sampled; others follow their parent. `per_second`: the
    most traces that start in one second, whatever clients ask for. `attach` gets the duration of
    each step, for exemplars.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        ratio: float,
        per_second: int,
        source: str,
        attach: Attach,
    ) -> None:
        _silence()
        self.spans: Counter[str] = Counter()
        self.traces: Counter[str] = Counter()
        self._ratio = ratio
        self._per_second = per_second
        self._attach = attach
        self._second, self._started = 0, 0  # traces in this second
        self._queued = 0
        self._ids = _Ids()
        exporter = OTLPSpanExporter(endpoint, timeout=TIMEOUT_S)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=_resource(source),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _CountingExporter(exporter, endpoint, self.spans),
                max_queue_size=MAX_QUEUE,
                max_export_batch_size=min(MAX_BATCH, MAX_QUEUE),
                schedule_delay_millis=DELAY_MS,
            )
        )
        self._tracer = self._provider.get_tracer("quota-sidecar", __version__)

    def start(self, request_id: str, parents: Sequence[bytes]) -> RequestTrace | None:
        """Begin the trace of a request; None if it is not sampled."""
        digits = request_id.replace("-", "")
        parent = parse_parent(parents)
        if parent is None:
            if not is_sampled(digits, self._ratio):
                return None
            trace_id, parent_id = digits, ""
        else:
            if not parent.sampled:
                return None
            trace_id, parent_id = parent.trace_id.decode(), parent.span_id.decode()
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._started = second, 0
        if self._started >= self._per_second:
            self.traces[LIMITED] += 1
            return None
        self._started += 1
        self.traces[SAMPLED] += 1
        return RequestTrace(trace_id, parent_id, digits[16:], self._export)

    def _export(
        self, trace: RequestTrace, steps: list[Step], end: tuple[Step, EndedRequest] | None
    ) -> None:
        waiting = self._queued - self.spans[EXPORTED] - self.spans[FAILED]
        count = len(steps) + (end is not None)
        if waiting + count > MAX_QUEUE:
            self.spans[DROPPED] += count
            return
        self._queued += count
        self._ids.trace_id = int(trace.trace_id, 16)
        if end is not None:
            self._export_root(trace, *end)
        below = _context(trace.trace_id, trace.root_id, remote=False)
        for step in steps:
            self._attach(step.name, (step.ended_ns - step.started_ns) / 1e9, trace.trace_id)
            self._export_step(trace, step, below)

    def _export_root(self, trace: RequestTrace, root: Step, request: EndedRequest) -> None:
        self._ids.span_id = int(trace.root_id, 16)
        above = _context(trace.trace_id, trace.parent_id, remote=True) if trace.parent_id else None
        attributes: dict[str, str | int] = {
            "http.request.method": request.method,
            "url.path": request.target,
            "http.response.status_code": root.status,
            "sidecar.request_id": request.request_id,
            "sidecar.outcome": request.outcome,
            "sidecar.account": request.account,
            "sidecar.plan": request.plan,
            "sidecar.route": request.route,
        }
        if request.job:
            attributes["sidecar.job"] = request.job
        kind = api.SpanKind.CONSUMER if request.job else api.SpanKind.SERVER
        span = self._tracer.start_span(
            root.name, above or Context(), kind, attributes, start_time=root.started_ns
        )
        _end(span, root)

    def _export_step(self, trace: RequestTrace, step: Step, below: Context) -> None:
        forwards = step.name == "forward"
        identifier = trace.forward_id if forwards else os.urandom(8).hex()
        self._ids.span_id = int(identifier, 16)
        attributes: dict[str, str | int] = {}
        if step.outcome:
            attributes["sidecar.outcome"] = step.outcome
        if step.status:
            attributes["http.response.status_code"] = step.status
        if step.failed:
            attributes["error.type"] = step.outcome
        kind = api.SpanKind.CLIENT if forwards else api.SpanKind.INTERNAL
        span = self._tracer.start_span(
            step.name, below, kind, attributes, start_time=step.started_ns
        )
        _end(span, step)

    async def close(self) -> None:
        """Send the last spans, for at most CLOSE_S."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: it was too late
                loop.call_soon_threadsafe(closed.set)

        # Not the loop's executor, whose threads the process would wait for.
        threading.Thread(target=shut_down, name="trace-shutdown", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), CLOSE_S)


def _resource(source: str) -> Resource:
    """What sends the spans; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first."""
    own = Resource(
        {"service.name": "quota-sidecar", "service.version": __version__, "sidecar.source": source}
    )
    given = Resource.create()
    if str(given.attributes.get("service.name", "")).startswith("unknown_service"):
        return given.merge(own)
    return own.merge(given)


def _context(trace_id: str, span_id: str, *, remote: bool) -> Context:
    span_context = api.SpanContext(
        int(trace_id, 16), int(span_id, 16), remote, api.TraceFlags(api.TraceFlags.SAMPLED)
    )
    return api.set_span_in_context(api.NonRecordingSpan(span_context), Context())


def _end(span: api.Span, step: Step) -> None:
    if step.failed:
        span.set_status(api.StatusCode.ERROR)
    span.end(step.ended_ns)


def _silence() -> None:
    """Keep the SDK's own lines, which are not JSON, out of the log."""
    sdk = logging.getLogger("opentelemetry")
    sdk.propagate = False
    if not sdk.handlers:
        sdk.addHandler(logging.NullHandler())
