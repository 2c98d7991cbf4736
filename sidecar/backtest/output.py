"""A backtest in words for people, and as JSON for programs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sidecar.backtest.report import (
    LATER,
    NEVER,
    PUT_ASIDE,
    AccountReport,
    Difference,
    Quota,
    RefusedCount,
    WaitedCount,
    total,
)
from sidecar.core.model import MICRO, PlanBook
from sidecar.core.text import amount, instant
from sidecar.metering.event_reader import ReadSummary

SHOWN: Final = 20  # accounts; all are in the JSON
NAMED: Final = 10  # accounts of a plan that is gone
_WITHIN: Final = {"1s": "within 1 second", "5s": "within 5 seconds", "60s": "within a minute",
                  LATER: "later", NEVER: "never"}  # fmt: skip


def in_words(
    reports: Sequence[AccountReport], found: ReadSummary, book: PlanBook, file: str
) -> Iterator[str]:
    """Lines of text: what was replayed, each account for which something changes, the totals."""
    whole = total(reports)
    when = f"from {instant(whole.first_us)} to {instant(whole.last_us)}"
    yield f"{amount(whole.calls, 'call')} of {amount(len(reports), 'account')}, {when}"
    yield f"through {file} ({book.version[:19]}…)"
    changed = sorted((one for one in reports if one.changed), key=_weight)
    for one in changed[:SHOWN]:
        yield ""
        yield from _account(one)
    yield ""
    if len(changed) > SHOWN:
        more = amount(len(changed) - SHOWN, "more account")
        yield f"{more} for which something changes: --json tells of all, --account ID of one."
    same = len(reports) - len(changed)
    if same:
        yield f"{amount(same, 'account')} for which nothing changes."
    yield from _gone(reports)
    yield f"In all: {_refused_of(whole)}."
    yield from (f"  {line}" for line in _differences(whole))
    refused = sum(found.refused.values())
    if refused:
        yield (
            f"{amount(refused, 'refusal')} were recorded too. They are not replayed: what their "
            "clients would have done next is not known."
        )


def _weight(report: AccountReport) -> tuple[int, str]:
    return -(report.refused_calls + report.put_aside_calls), report.account


def _account(report: AccountReport) -> Iterator[str]:
    plans = ", ".join(sorted(report.plans))
    yield f"{report.account} (recorded on {plans}): {_refused_of(report)}"
    for (limit, reason), one in sorted(report.refused.items()):
        yield f"  {limit} ({reason}): {_refusal(one)}"
    for limit, held in sorted(report.held.items()):
        yield f"  {limit}: {_held(held)}"
    for limit, quota in sorted(report.quotas.items()):
        if quota.ran_out_us is not None:
            yield f"  {limit}: {_ran_out(quota)}"
    for limit, calls in sorted(report.shadowed.items()):
        yield f"  {limit} (in shadow): would have refused {amount(calls, 'call')}"
    for (why, about), calls in sorted(report.aside.items()):
        yield f"  {amount(calls, 'call')} not replayed: {PUT_ASIDE[why]} ({about})"
    yield from (f"  {line}" for line in _differences(report))


def _refused_of(report: AccountReport) -> str:
    refused, calls = report.refused_calls, report.calls
    share = f" ({refused * 100 / calls:.2g} %)" if refused else ""
    text = f"{amount(calls, 'call')}, {refused:,} refused{share}"
    aside = report.put_aside_calls
    return f"{text}, {aside:,} not replayed" if aside else text


def _refusal(one: RefusedCount) -> str:
    fitted = [f"{one.waits[name]:,} {_WITHIN[name]}" for name in (*_WITHIN,) if one.waits.get(name)]
    tail = f"; the longest wait is {_lasting(one.longest_us)}" if one.longest_us else ""
    return f"{amount(one.calls, 'call')} refused, which would fit: {', '.join(fitted)}{tail}"


def _held(one: WaitedCount) -> str:
    waits = f"{_lasting(one.all_us // one.calls)} on average, {_lasting(one.longest_us)} at most"
    return f"{amount(one.calls, 'call')} held until they fit, for {waits}"


def _lasting(us: int) -> str:
    """A span in the largest unit that it has two of, rounded up."""
    seconds = -(-us // MICRO)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return amount(-(-seconds // size), unit)
    return amount(seconds, "second")


def _ran_out(quota: Quota) -> str:
    key = f" for key {quota.key}" if quota.key is not None else ""
    at = instant(quota.ran_out_us or 0)
    return f"runs out{key} at {at}; at most {quota.peak:,} of {quota.units:,} used in a period"


def _differences(report: AccountReport) -> Iterator[str]:
    yield from _apart(report.units, "")
    yield from _apart(report.overage, "overage of ")


def _apart(differences: Mapping[str, Difference], what: str) -> Iterator[str]:
    for meter, one in sorted(differences.items()):
        if one.recorded != one.replayed:
            by = one.replayed - one.recorded
            yield f"{what}{meter}: {one.recorded:,} recorded, {one.replayed:,} now ({by:+,})"


def _gone(reports: Sequence[AccountReport]) -> Iterator[str]:
    """Accounts whose plan the new file does not have."""
    gone: dict[str, list[str]] = {}
    for one in reports:
        for why, plan in one.aside:
            if why == "plan":
                gone.setdefault(plan, []).append(one.account)
    for plan, accounts in sorted(gone.items()):
        names = ", ".join(accounts[:NAMED])
        more = f" and {len(accounts) - NAMED:,} more" if len(accounts) > NAMED else ""
        yield f"Plan {plan} is not in the new file: {names}{more} cannot be replayed."


def as_json(
    reports: Sequence[AccountReport], found: ReadSummary, book: PlanBook, file: str
) -> dict[str, Any]:
    """Everything, for programs. Instants are RFC 3339; units are integers."""
    whole = total(reports).as_json()
    for name in ("account", "quotas"):
        del whole[name]
    return {
        "plans": {"file": file, "version": book.version},
        "total": whole | {"accounts": len(reports)},
        "accounts": [one.as_json() for one in reports],
        "events": {
            "files": found.files,
            "calls": found.calls,
            "other_events": found.others,
            "recorded_refusals": sum(found.refused.values()),
            "broken_lines": found.broken,
            "broken": [str(line) for line in found.broken_lines],
        },
    }
