"""Traces of one sidecar: the tracer from the settings, its metrics, and the exemplars."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecar.errors import SettingsError
from sidecar.metrics import Metrics
from sidecar.settings import Settings

if TYPE_CHECKING:
    from sidecar.tracing.otlp import OtlpTracer

_MISSING: Final = (
    "--trace-endpoint (SIDECAR_TRACE_ENDPOINT): needs OpenTelemetry, which is not installed; "
    "run: pip install 'quota-sidecar[otel]'"
)


def tracer_of(settings: Settings, metrics: Metrics) -> "OtlpTracer | None":
    """The tracer; None without an endpoint. Raises SettingsError if packages are missing."""
    if settings.trace_endpoint is None:
        return None
    try:
        from sidecar.tracing import otlp  # packages that only traces need
    except ImportError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise SettingsError(_MISSING) from None
    tracer = otlp.OtlpTracer(
        settings.trace_endpoint,
        ratio=settings.trace_ratio,
        per_second=settings.trace_max_per_second,
        source=settings.source,
        attach=_exemplars(metrics),
    )
    _publish(metrics, tracer)
    return tracer


def _exemplars(metrics: Metrics) -> Callable[[str, float, str], None]:
    """Attaches traces to the histograms of Redis and of waiting, by the steps of a request."""
    histograms = {"reserve": metrics.store, "wait": metrics.waited}

    def attach(step: str, seconds: float, trace_id: str) -> None:
        histogram = histograms.get(step)
        if histogram is not None:
            histogram.attach(seconds, trace_id)

    return attach


def _publish(metrics: Metrics, tracer: "OtlpTracer") -> None:
    metrics.labelled_counter(
        "sidecar_traces",
        "Traces that were begun, or not begun because there were too many.",
        ("decision",),
        lambda: {(one,): float(tracer.traces[one]) for one in ("sampled", "limited")},
    )
    metrics.labelled_counter(
        "sidecar_trace_spans",
        "Spans that the receiver took, that it did not take, or that did not fit into the queue.",
        ("outcome",),
        lambda: {(one,): float(tracer.spans[one]) for one in ("exported", "failed", "dropped")},
    )
