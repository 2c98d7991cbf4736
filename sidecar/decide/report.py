"""What a gateway reports of a request that has ended, and what it costs by that."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sidecar.bodies import reader_for
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading, actual_costs, read_fields
from sidecar.core.settlement import Outcome, OutcomeReason, failed

NOT_SENT = 499  # the status of a request whose client got no response


class Report(NamedTuple):
    """The end of a request, by its gateway.

    `usage`: units per meter, which replace what the response says. `fields`: of the response, as
    (name in lower case, whole line). `body`: of the response, as far as the gateway has it;
    `complete`: it is all of it.
    """

    status: int
    reason: OutcomeReason = OutcomeReason.OK
    latency_ms: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    begun: bool = True
    usage: Mapping[str, int] = {}
    fields: Sequence[tuple[bytes, bytes]] = ()
    body: bytes | None = None
    complete: bool = True


def outcome_of(report: Report, entitlement: Entitlement) -> Outcome:
    """Return the outcome that a report means for a request with this entitlement."""
    outcome = Outcome(
        report.status,
        report.reason,
        report.latency_ms,
        report.bytes_in,
        report.bytes_out,
        begun=report.begun,
    )
    if not (entitlement.settles or entitlement.reads_response):
        return outcome
    return _with_reading(report, entitlement, outcome)


def _with_reading(report: Report, entitlement: Entitlement, outcome: Outcome) -> Outcome:
    """The outcome with the costs in the response. A gateway's `usage` replaces them."""
    body, events, size, reports_error = None, 0, report.bytes_out, False
    if report.body is not None:
        kind, coding = _value(report, b"content-type"), _value(report, b"content-encoding")
        reader = reader_for(kind, coding, entitlement.reads)
        reader.feed(report.body)
        body = reader.finish(complete=report.complete)
        events, size, reports_error = reader.events, max(size, reader.size), reader.failed
    counted: dict[str, int] | None = None
    if entitlement.fallbacks and outcome.status < 400 and not reports_error:
        counted = {meter: rule.units(events, size) for meter, rule in entitlement.fallbacks}
    fields = read_fields(entitlement.settles, report.fields)
    reading = actual_costs(
        entitlement.settles, body, fields, report.bytes_in, report.bytes_out, counted
    )
    if reports_error and outcome.status < 400 and not failed(outcome):
        outcome = outcome._replace(reason=OutcomeReason.UPSTREAM_ERROR)
    return outcome._replace(reading=_with_usage(reading, report.usage, entitlement))


def _with_usage(reading: Reading, usage: Mapping[str, int], entitlement: Entitlement) -> Reading:
    given = {meter: usage[meter] for meter, _ in entitlement.settles if meter in usage}
    if not given:
        return reading
    unreadable = {meter: why for meter, why in reading.unreadable.items() if meter not in given}
    return Reading({**reading.values, **given}, unreadable, reading.capped, reading.counted)


def _value(report: Report, name: bytes) -> bytes:
    return b",".join(
        [line.partition(b":")[2].strip() for field, line in report.fields if field == name]
    )
