"""The results of reconcile and rebuild as text for people."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sidecar.core.kinds import TeamShare
from sidecar.core.text import amount, instant
from sidecar.metering.gaps import SequenceCoverage
from sidecar.reconcile.compare import Comparisons, Reconciler
from sidecar.reconcile.differences import Cause, CauseKind, CounterComparison
from sidecar.reconcile.period_usage import PeriodUsage
from sidecar.reconcile.rebuild import Correction, RebuildReport

MAX_LISTED: Final = 10  # gaps, and names in one list

_TEXTS: Final = {
    CauseKind.IN_FLIGHT: "reserved by {requests} in flight",
    CauseKind.SETTLING: "settlement pending for {requests}",
    CauseKind.REFUND_DUE: "refund pending for {requests}",
    CauseKind.LATE_EVENTS: "for requests that were in flight when the counter was read",
    CauseKind.GRANTS: "paid by grants",
    CauseKind.UNCHARGED: "uncharged: allowed without Redis and still in a journal",
    CauseKind.PERIOD_START: "near the start of the period: dated in one period, counted in another",
    CauseKind.PLAN_CHANGED: "counted under another version of the plan file",
    CauseKind.KILLED: "of requests in flight when a sidecar was killed: they have no event",
    CauseKind.LOST: "LOST: counted before but not any more, as after a failover or flush of Redis",
    CauseKind.EVENTS_MISSING: "EVENTS MISSING: counted, but no event was read for it",
    CauseKind.UNREADABLE: "UNREADABLE: field {field} in the state of the account is invalid",
}


def used_counters(comparisons: Comparisons) -> list[CounterComparison]:
    """Return the counters of all accounts in order, without unused ones."""
    every = (counter for _, one in sorted(comparisons.items()) for counter in one.counters)
    return [one for one in every if one.counter or one.events or one.causes]


def differences(comparisons: Comparisons) -> Iterator[str]:
    """Yield a line for each counter that is not the sum of its events."""
    for one in used_counters(comparisons):
        if one.causes:
            causes = "; ".join(_cause(one.usage, cause) for cause in one.causes)
            numbers = f"counter {one.counter:,}, events {one.events:,}"
            yield f"{counter_name(one.usage)}: {numbers}: {causes}"


def counter_name(usage: PeriodUsage) -> str:
    """Return "acme/k1 per-key, since 2026-11-01T00:00:00Z" or "acme team search monthly, …"."""
    owner = f"{usage.account}/{usage.key}" if usage.key is not None else usage.account
    if isinstance(usage.limit, TeamShare):
        owner = f"{usage.account} team {usage.limit.team}"
    return f"{owner} {usage.limit.id}, since {instant(usage.start)}"


def _cause(usage: PeriodUsage, cause: Cause) -> str:
    requests = amount(cause.requests, "request")
    text = _TEXTS[cause.kind].format(requests=requests, field=usage.field)
    return f"{cause.units:+,} {text}" if cause.units else text


def summary(
    comparisons: Comparisons, reconciler: Reconciler, coverage: SequenceCoverage
) -> Iterator[str]:
    """Yield the totals, what was not compared, and what an operator can do."""
    counters = used_counters(comparisons)
    accounts = len({one.usage.account for one in counters})
    unexplained = sum(one.unexplained for one in counters)
    explained = sum(bool(one.causes) for one in counters) - unexplained
    equal = len(counters) - explained - unexplained
    yield (
        f"{amount(len(counters), 'counter')} of {amount(accounts, 'account')}: "
        f"{equal:,} equal, {explained:,} explained, {unexplained:,} unexplained."
    )
    refunded = sum(one.usage.refunded for one in counters)
    if refunded:
        yield f"{refunded:,} units of refunded requests count on neither side."
    yield "Rates and concurrency are not compared: they are not sums of events."
    yield from _notes(reconciler)
    yield from _remedies(counters, coverage)


def _notes(reconciler: Reconciler) -> Iterator[str]:
    if reconciler.without_limit:
        fields = sorted(f"{account} {field}" for account, field in reconciler.without_limit)
        yield f"Not compared, because no plan has such a limit: {_listed(fields)}."
    unknown = unknown_accounts(reconciler)
    if unknown:
        yield (
            "Compared in UTC, because neither the plan file nor Redis has the account: "
            f"{_listed(unknown)}."
        )


def unknown_accounts(reconciler: Reconciler) -> list[str]:
    """Return the ids of accounts with an unknown time zone."""
    accounts = reconciler.usage.accounts.items()
    return sorted(name for name, usage in accounts if not usage.resolved.known)


def _remedies(counters: Iterable[CounterComparison], coverage: SequenceCoverage) -> Iterator[str]:
    lost = [one for one in counters if one.units_of(CauseKind.LOST)]
    if lost:
        yield "To restore lost units, run sidecar rebuild --apply with the same options."
        uncertain = sum(one.uncertain for one in lost)
        if uncertain:
            yield (
                f"Up to {uncertain:,} of them may never have been counted, because another version "
                "of the plan file was in force. Name that file with --former-plans."
            )
    if any(one.units_of(CauseKind.EVENTS_MISSING) for one in counters):
        gaps = list(coverage.missing())
        for gap in gaps[:MAX_LISTED]:
            yield f"Not read: {gap}. If they were shipped, name the files of sinks with --events."
        if len(gaps) > MAX_LISTED:
            yield f"Not read: {len(gaps) - MAX_LISTED:,} more gaps."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def corrections(report: RebuildReport, *, applied: bool) -> Iterator[str]:
    """Yield a line for each correction, done or planned, then what is left to do."""
    for one in report.corrections:
        yield f"{counter_name(one.comparison.usage)}: {_change(one)}"
    if report.busy:
        yield (
            f"Not rebuilt, because they changed during each attempt: {_listed(report.busy)}. "
            "Run sidecar rebuild again."
        )
    if report.unknown:
        yield (
            "Not rebuilt, because neither the plan file nor Redis has the account: "
            f"{_listed(report.unknown)}. Create it with sidecar accounts set, then run sidecar "
            "rebuild again."
        )
    counters = amount(len(report.corrections), "counter")
    if not report.corrections:
        yield "Nothing to rebuild: no counter is lower than its events."
    elif applied:
        yield f"{counters} rebuilt."
    else:
        yield f"{counters} to rebuild. Nothing was changed: add --apply to rebuild."


def _change(correction: Correction) -> str:
    before, units = correction.comparison.counter, correction.units
    uncertain = correction.comparison.uncertain
    note = f", {uncertain:,} of them under another version of the plan file" if uncertain else ""
    return f"{before:,} → {before + units:,} ({units:+,} units{note})"
