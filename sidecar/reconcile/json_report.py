"""What reconcile and rebuild found, as JSON for programs. Instants are RFC 3339, units integers."""

from collections.abc import Mapping
from typing import Any, Final

from sidecar.core.model import TeamShare
from sidecar.core.text import instant
from sidecar.metering.event_reader import ReadSummary
from sidecar.metering.gaps import SequenceCoverage
from sidecar.reconcile.compare import AccountComparison, Reconciler
from sidecar.reconcile.differences import Verdict
from sidecar.reconcile.rebuild import Rebuilt
from sidecar.reconcile.text_report import verdicts_of

GAPS: Final = 100


def reconciled(
    looks: Mapping[str, AccountComparison],
    looker: Reconciler,
    found: ReadSummary,
    coverage: SequenceCoverage,
) -> dict[str, Any]:
    """All counters, equal ones too."""
    verdicts = verdicts_of(looks)
    left = sum(one.left for one in verdicts)
    explained = sum(bool(one.whys) for one in verdicts) - left
    gaps = list(coverage.missing())
    return {
        "equal": len(verdicts) - explained - left,
        "explained": explained,
        "different": left,
        "counters": [_counter(one) for one in verdicts],
        "not_compared": ["rates", "concurrency"],
        "without_limit": [
            {"account": account, "field": field} for account, field in sorted(looker.gone)
        ],
        "unknown_accounts": sorted(
            name for name, one in looker.usage.accounts.items() if not one.who.known
        ),
        "events": events(found)
        | {
            "not_given": [gap._asdict() for gap in gaps[:GAPS]],
            "not_given_in_all": sum(gap.last - gap.first + 1 for gap in gaps),
        },
    }


def events(found: ReadSummary) -> dict[str, Any]:
    """What was read."""
    return {
        "files": found.files,
        "calls": found.calls,
        "other_events": found.others,
        "broken_lines": found.broken,
        "broken": [str(line) for line in found.broken_lines],
    }


def _counter(verdict: Verdict) -> dict[str, Any]:
    row = verdict.row
    return _place(verdict) | {
        "status": "different" if verdict.left else "explained" if verdict.whys else "equal",
        "counter": verdict.counter,
        "events": verdict.events,
        "difference": verdict.difference,
        "refunded": row.refunded,
        "why": [
            {"kind": str(why.kind), "units": why.units, "calls": why.calls or None}
            for why in verdict.whys
        ],
        "under_other_plan_files": row.guessed,
    }


def _place(verdict: Verdict) -> dict[str, Any]:
    row = verdict.row
    return {
        "account": row.account,
        "limit": row.limit.id,
        "key": row.key,
        "team": row.limit.team if isinstance(row.limit, TeamShare) else None,
        "meter": row.limit.meter,
        "period": {"start": instant(row.start), "end": instant(row.end)},
    }


def rebuilt(done: Rebuilt, found: ReadSummary, *, applied: bool) -> dict[str, Any]:
    """Counters that were changed, or would be."""
    return {
        "applied": applied,
        "changes": [
            _place(one.verdict)
            | {
                "before": one.verdict.counter,
                "after": one.verdict.counter + one.units,
                "under_other_plan_files": one.verdict.guessed,
            }
            for one in done.raised
        ],
        "busy": done.busy,
        "unknown_accounts": done.unknown,
        "events": events(found),
    }
