"""What reconcile and rebuild found, in words for people."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from sidecar.core.model import TeamShare
from sidecar.core.text import amount, instant
from sidecar.metering.gaps import SequenceCoverage
from sidecar.reconcile.compare import AccountComparison, Reconciler
from sidecar.reconcile.differences import Cause, Kind, Verdict
from sidecar.reconcile.period_usage import Row
from sidecar.reconcile.rebuild import Raised, Rebuilt

SHOWN: Final = 10  # gaps and names of one kind

_SAYS: Final = {
    Kind.IN_FLIGHT: "reserved by {calls} that {are} not over",
    Kind.SETTLING: "for {calls} that {are} over, and whose real cost Redis has not been told",
    Kind.REFUND_DUE: "for {calls} that {are} refunded, which Redis has not been told",
    Kind.PASSING: "of calls that were in flight when the counter was read",
    Kind.GRANTS: "paid by grants",
    Kind.JOURNALLED: "let pass without Redis: they are in a journal and will be charged",
    Kind.PERIOD_START: "near the start of the period: dated in one period, counted in the other",
    Kind.PLAN_CHANGED: "counted here by another version of the plan file",
    Kind.LOST: "LOST: counted and gone again, as after a failover or a flush of Redis",
    Kind.MISSING: "WITHOUT EVENT: counted, and no event that was given tells of it",
    Kind.UNREADABLE: "UNREADABLE: {field} in the account's state is not what a script writes",
}


def verdicts_of(looks: Mapping[str, AccountComparison]) -> list[Verdict]:
    """All of them, in order, without those that have nothing to say."""
    every = (one for _, look in sorted(looks.items()) for one in look.verdicts)
    return [one for one in every if one.counter or one.events or one.whys]


def differences(looks: Mapping[str, AccountComparison]) -> Iterator[str]:
    """A line for each counter that is not the sum of its events."""
    for verdict in verdicts_of(looks):
        if verdict.whys:
            parts = "; ".join(_why(verdict.row, why) for why in verdict.whys)
            numbers = f"counter {verdict.counter:,}, events {verdict.events:,}"
            yield f"{place(verdict.row)}: {numbers}: {parts}"


def place(row: Row) -> str:
    """ "acme/k1 per-key, since 2026-11-01T00:00:00Z"; "acme team search monthly, since…"."""
    whose = f"{row.account}/{row.key}" if row.key is not None else row.account
    if isinstance(row.limit, TeamShare):
        whose = f"{row.account} team {row.limit.team}"
    return f"{whose} {row.limit.id}, since {instant(row.start)}"


def _why(row: Row, why: Cause) -> str:
    are, calls = "is" if why.calls == 1 else "are", amount(why.calls, "call")
    says = _SAYS[why.kind].format(calls=calls, are=are, field=row.field)
    return f"{why.units:+,} {says}" if why.units else says


def summary(
    looks: Mapping[str, AccountComparison], looker: Reconciler, coverage: SequenceCoverage
) -> Iterator[str]:
    """How many are equal, what was not compared, and what helps."""
    verdicts = verdicts_of(looks)
    left = sum(one.left for one in verdicts)
    explained = sum(bool(one.whys) for one in verdicts) - left
    yield (
        f"{amount(len(verdicts), 'counter')} of {amount(_accounts(verdicts), 'account')}: "
        f"{len(verdicts) - explained - left:,} equal, {explained:,} explained, {left:,} different."
    )
    refunded = sum(one.row.refunded for one in verdicts)
    if refunded:
        yield f"{refunded:,} units of refunded calls count on neither side."
    yield "Rates and concurrency are not compared: they are not sums of events."
    yield from _notes(looker)
    yield from _help(verdicts, coverage)


def _accounts(verdicts: Iterable[Verdict]) -> int:
    return len({one.row.account for one in verdicts})


def _notes(looker: Reconciler) -> Iterator[str]:
    if looker.gone:
        names = _some([f"{account} {field}" for account, field in sorted(looker.gone)])
        yield f"Left out, since no plan has such a limit (any more): {names}."
    unknown = sorted(name for name, one in looker.usage.accounts.items() if not one.who.known)
    if unknown:
        yield f"Neither the plan file nor Redis has these, so their time is UTC: {_some(unknown)}."


def _help(verdicts: Sequence[Verdict], coverage: SequenceCoverage) -> Iterator[str]:
    if any(one.of(Kind.LOST) for one in verdicts):
        yield "What is lost is restored by: sidecar rebuild --apply, with the same options."
        guessed = sum(one.guessed for one in verdicts)
        if guessed:
            yield (
                f"Up to {guessed:,} of it may never have been counted: those calls were under "
                "another version of the plan file. Name it with --former-plans to be sure."
            )
    if any(one.of(Kind.MISSING) for one in verdicts):
        gaps = list(coverage.missing())
        for gap in gaps[:SHOWN]:
            yield f"Not given: {gap}. If they were shipped, name the sinks' files with --events."
        if len(gaps) > SHOWN:
            yield f"And {len(gaps) - SHOWN:,} more gaps."


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def changes(done: Rebuilt, *, applied: bool) -> Iterator[str]:
    """A line for each counter that is changed, or would be."""
    for raised in done.raised:
        yield f"{place(raised.verdict.row)}: {_change(raised)}"
    if done.busy:
        yield f"Changed by others again and again, try later: {_some(done.busy)}."
    if done.unknown:
        yield (
            f"Left alone, since neither the plan file nor Redis has them: {_some(done.unknown)}. "
            "Make them again with sidecar accounts set, then rebuild again."
        )
    counters = amount(len(done.raised), "counter")
    if not done.raised:
        yield "Nothing to rebuild: no counter is lower than its events."
    elif applied:
        yield f"{counters} rebuilt."
    else:
        yield f"{counters} to rebuild. Nothing was changed: do it with --apply."


def _change(raised: Raised) -> str:
    before = raised.verdict.counter
    guessed = raised.verdict.guessed
    note = f", of which {guessed:,} under another version of the plan file" if guessed else ""
    return f"{before:,} → {before + raised.units:,} ({raised.units:+,} units{note})"
