"""The results of reconcile and rebuild as JSON. Instants are RFC 3339, units integers."""

from typing import Any, Final

from sidecar.core.kinds import TeamShare
from sidecar.core.text import instant
from sidecar.metering.event_reader import ReadSummary
from sidecar.metering.gaps import SequenceCoverage
from sidecar.reconcile.compare import Comparisons, Reconciler
from sidecar.reconcile.differences import CounterComparison
from sidecar.reconcile.rebuild import RebuildReport
from sidecar.reconcile.text_report import unknown_accounts, used_counters

MAX_GAPS: Final = 100


def reconcile_document(
    comparisons: Comparisons,
    reconciler: Reconciler,
    events: ReadSummary,
    coverage: SequenceCoverage,
) -> dict[str, Any]:
    """Return all counters, including equal ones, and what was read."""
    counters = used_counters(comparisons)
    statuses = [_status(one) for one in counters]
    gaps = list(coverage.missing())
    return {
        "equal": statuses.count("equal"),
        "explained": statuses.count("explained"),
        "unexplained": statuses.count("unexplained"),
        "counters": [_counter(one) for one in counters],
        "not_compared": ["rates", "concurrency"],
        "without_limit": [
            {"account": account, "field": field}
            for account, field in sorted(reconciler.without_limit)
        ],
        "unknown_accounts": unknown_accounts(reconciler),
        "events": events.as_json()
        | {
            "missing": [gap._asdict() for gap in gaps[:MAX_GAPS]],
            "missing_total": sum(gap.last - gap.first + 1 for gap in gaps),
        },
    }


def _status(one: CounterComparison) -> str:
    return "unexplained" if one.unexplained else "explained" if one.causes else "equal"


def _counter(one: CounterComparison) -> dict[str, Any]:
    return _identity(one) | {
        "status": _status(one),
        "counter": one.counter,
        "events": one.events,
        "difference": one.difference,
        "refunded": one.usage.refunded,
        "causes": [
            {"kind": str(cause.kind), "units": cause.units, "requests": cause.requests or None}
            for cause in one.causes
        ],
        "under_unknown_plan_files": one.usage.uncertain,
    }


def _identity(one: CounterComparison) -> dict[str, Any]:
    usage = one.usage
    return {
        "account": usage.account,
        "limit": usage.limit.id,
        "key": usage.key,
        "team": usage.limit.team if isinstance(usage.limit, TeamShare) else None,
        "meter": usage.limit.meter,
        "period": {"start": instant(usage.start), "end": instant(usage.end)},
    }


def rebuild_document(
    report: RebuildReport, events: ReadSummary, *, applied: bool
) -> dict[str, Any]:
    """Return the corrections, done or planned."""
    return {
        "applied": applied,
        "changes": [
            _identity(counter)
            | {
                "before": counter.counter,
                "after": counter.counter + units,
                "under_unknown_plan_files": counter.uncertain,
            }
            for counter, units in report.corrections
        ],
        "busy": report.busy,
        "unknown_accounts": report.unknown,
        "events": events.as_json(),
    }
