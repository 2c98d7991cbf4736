"""The output of a backtest: text for people, JSON for programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.backtest.report import (
    LATER,
    NEVER,
    SKIP_REASONS,
    AccountReport,
    QuotaResult,
    RefusedCount,
    UnitChange,
    WaitedCount,
    total,
)
from sidecar.core.kinds import MICRO
from sidecar.core.model import PlanBook
from sidecar.core.text import amount, instant
from sidecar.metering.event_reader import ReadSummary

MAX_ACCOUNTS: Final = 20  # in the text; the JSON has all
MAX_NAMES: Final = 10  # accounts of one missing plan
_WITHIN: Final = {
    "1s": "within 1 second",
    "5s": "within 5 seconds",
    "60s": "within a minute",
    LATER: "later",
    NEVER: "never",
}


def text_lines(
    reports: Sequence[AccountReport], events: ReadSummary, book: PlanBook, file: str
) -> Iterator[str]:
    """Yield the input, each account that changes (most refusals first), and the totals."""
    whole = total(reports)
    period = f"from {instant(whole.first_us)} to {instant(whole.last_us)}"
    yield f"{amount(whole.requests, 'request')} of {amount(len(reports), 'account')}, {period}"
    yield f"replayed with {file} ({book.version[:19]}…)"
    changed = sorted((one for one in reports if one.changed), key=_rank)
    for one in changed[:MAX_ACCOUNTS]:
        yield ""
        yield from _account(one)
    yield ""
    if len(changed) > MAX_ACCOUNTS:
        more = amount(len(changed) - MAX_ACCOUNTS, "more account")
        yield f"Changes for {more}: --json lists all, --account ID shows one."
    same = len(reports) - len(changed)
    if same:
        yield f"No change for {amount(same, 'account')}."
    yield from _missing_plans(reports)
    yield f"Total: {_totals(whole)}."
    yield from (f"  {line}" for line in _unit_changes(whole))
    refused = sum(events.refused.values())
    if refused:
        yield (
            f"The events also contain {amount(refused, 'refusal')}. They are not replayed, "
            "because the later requests of these clients are unknown."
        )


def _rank(report: AccountReport) -> tuple[int, str]:
    return -(report.refused_requests + report.skipped_requests), report.account


def _account(report: AccountReport) -> Iterator[str]:
    plans = ", ".join(sorted(report.plans))
    yield f"{report.account} (recorded on {plans}): {_totals(report)}"
    for (limit, reason), refused in sorted(report.refused.items()):
        yield f"  {limit} ({reason}): {_refused(refused)}"
    for limit, waited in sorted(report.waited.items()):
        yield f"  {limit}: {_waited(waited)}"
    for limit, quota in sorted(report.quotas.items()):
        if quota.ran_out_us is not None:
            yield f"  {limit}: {_used_up(quota, quota.ran_out_us)}"
    for limit, requests in sorted(report.shadowed.items()):
        yield f"  {limit} (in shadow): would refuse {amount(requests, 'request')}"
    for (reason, name), requests in sorted(report.skipped.items()):
        skipped = amount(requests, "request")
        yield f"  {skipped} not replayed: {SKIP_REASONS[reason]} ({name})"
    yield from (f"  {line}" for line in _unit_changes(report))


def _totals(report: AccountReport) -> str:
    refused, requests = report.refused_requests, report.requests
    share = f" ({refused * 100 / requests:.2g} %)" if refused else ""
    text = f"{amount(requests, 'request')}, {refused:,} refused{share}"
    skipped = report.skipped_requests
    return f"{text}, {skipped:,} not replayed" if skipped else text


def _refused(one: RefusedCount) -> str:
    waits = [f"{one.waits[name]:,} {_WITHIN[name]}" for name in _WITHIN if one.waits.get(name)]
    longest = f"; longest wait: {_duration(one.longest_us)}" if one.longest_us else ""
    return f"{amount(one.requests, 'request')} refused; would fit: {', '.join(waits)}{longest}"


def _waited(one: WaitedCount) -> str:
    mean, longest = _duration(one.total_us // one.requests), _duration(one.longest_us)
    return f"{amount(one.requests, 'request')} would wait, {mean} on average, {longest} at most"


def _duration(us: int) -> str:
    """Return a duration, rounded up, in the largest unit of which it has at least two."""
    seconds = -(-us // MICRO)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return amount(-(-seconds // size), unit)
    return amount(seconds, "second")


def _used_up(quota: QuotaResult, at_us: int) -> str:
    key = f" for key {quota.key}" if quota.key is not None else ""
    return f"used up{key} at {instant(at_us)}; peak: {quota.peak:,} of {quota.units:,} per period"


def _unit_changes(report: AccountReport) -> Iterator[str]:
    yield from _changes(report.units, "")
    yield from _changes(report.overage, "overage of ")


def _changes(changes: Mapping[str, UnitChange], prefix: str) -> Iterator[str]:
    for meter, one in sorted(changes.items()):
        if one.recorded != one.replayed:
            change = one.replayed - one.recorded
            numbers = f"{one.recorded:,} recorded, {one.replayed:,} replayed ({change:+,})"
            yield f"{prefix}{meter}: {numbers}"


def _missing_plans(reports: Sequence[AccountReport]) -> Iterator[str]:
    """Yield a line for each recorded plan that the new file lacks, with its accounts."""
    missing: dict[str, list[str]] = {}
    for one in reports:
        for reason, plan in one.skipped:
            if reason == "plan":
                missing.setdefault(plan, []).append(one.account)
    for plan, accounts in sorted(missing.items()):
        names = ", ".join(accounts[:MAX_NAMES])
        more = f" and {len(accounts) - MAX_NAMES:,} more" if len(accounts) > MAX_NAMES else ""
        yield f"Plan {plan} is not in the new file. Not replayed: {names}{more}."


def json_document(
    reports: Sequence[AccountReport], events: ReadSummary, book: PlanBook, file: str
) -> dict[str, Any]:
    """Return the whole result. Instants are RFC 3339; units are integers."""
    whole = total(reports).as_json()
    for name in ("account", "quotas"):
        del whole[name]
    return {
        "plans": {"file": file, "version": book.version},
        "total": whole | {"accounts": len(reports)},
        "accounts": [one.as_json() for one in reports],
        "events": events.as_json() | {"recorded_refusals": sum(events.refused.values())},
    }
