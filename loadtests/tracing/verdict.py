"""Whether the spans of a receiver are whole traces, and those of the access log."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

SERVER: Final = 2
CONSUMER: Final = 5
_ROOTS: Final = (SERVER, CONSUMER)
Span = dict[str, Any]


def faults_of(spans: Iterable[Span], logged: dict[str, str]) -> list[str]:
    """What is wrong. `logged`: outcome by trace, of the requests that must have one."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        traces[span["traceId"]].append(span)
    faults = [
        f"{trace}: is in the access log, and has no span" for trace in logged if trace not in traces
    ]
    for trace, found in traces.items():
        faults += [f"{trace}: {fault}" for fault in _faults_of_trace(found, logged.get(trace))]
    return faults


def _faults_of_trace(spans: list[Span], outcome: str | None) -> Iterable[str]:
    roots = [span for span in spans if span["kind"] in _ROOTS]
    by_request = [span for span in roots if span["kind"] == SERVER]
    if not roots:
        yield "has no root"
    ids = {span["spanId"] for span in spans}
    if len(ids) != len(spans):
        yield "has two spans with one id"
    root_ids = {span["spanId"] for span in roots}
    for span in spans:
        if span not in roots and span.get("parentSpanId") not in root_ids:
            yield f"{span['name']} is not below the root"
        if int(span["endTimeUnixNano"]) < int(span["startTimeUnixNano"]):
            yield f"{span['name']} ends before it starts"
    names = {span["name"] for span in spans}
    if "forward" in names and not {"identify", "reserve", "settle"} <= names:
        yield f"was forwarded, and has only {sorted(names)}"
    if outcome is not None and [_attribute(span, "sidecar.outcome") for span in by_request] != [
        outcome
    ]:
        yield f"does not end as {outcome}"


def _attribute(span: Span, name: str) -> str:
    for row in span.get("attributes", ()):
        if row["key"] == name:
            return str(next(iter(row["value"].values())))
    return ""
