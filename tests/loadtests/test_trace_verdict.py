"""The verdict on traces finds what is not whole."""

from typing import Any

import pytest

from loadtests.tracing.verdict import faults_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
STEPS = ("identify", "reserve", "forward", "settle")


def a_span(name: str, span_id: str, parent: str = "root", **changes: Any) -> dict[str, Any]:
    outcome = {"key": "sidecar.outcome", "value": {"stringValue": "ok"}}
    return {
        "traceId": TRACE, "spanId": span_id, "parentSpanId": parent, "name": name, "kind": 1,
        "startTimeUnixNano": "5", "endTimeUnixNano": "6", "attributes": [outcome],
    } | changes  # fmt: skip


def a_trace(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    """A whole trace; `changes` are those of a span, by its name."""
    spans = [a_span("GET rest", "root", "", kind=2), *(a_span(name, name) for name in STEPS)]
    return [span | changes.get(span["name"], {}) for span in spans]


def test_a_whole_trace_has_no_fault() -> None:
    assert faults_of(a_trace(), {TRACE: "ok"}) == []


@pytest.mark.parametrize(
    ("spans", "outcome", "fault"),
    [
        ([], "ok", "is in the access log, and has no span"),
        (a_trace()[1:], "ok", "has no root"),
        (a_trace()[:-1], "ok", "was forwarded, and has only"),
        (a_trace(reserve={"parentSpanId": "x"}), "ok", "reserve is not below the root"),
        (a_trace(settle={"spanId": "forward"}), "ok", "has two spans with one id"),
        (a_trace(settle={"endTimeUnixNano": "4"}), "ok", "settle ends before it starts"),
        (a_trace(), "quota", "does not end as quota"),
    ],
)
def test_a_fault_is_named(spans: list[dict[str, Any]], outcome: str, fault: str) -> None:
    assert any(fault in one for one in faults_of(spans, {TRACE: outcome}))
