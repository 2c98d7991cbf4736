"""Adds recorded calls up into rows, each call once.

Which period a call was charged in, Redis decided by its clock; its event was dated by the sidecar's
before that. So near the start of a period both are possible, and rows tell that apart.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sidecar.core.events.read import RecordedRequest
from sidecar.core.model import Account, QuotaLimit, TeamShare
from sidecar.core.periods import window_at
from sidecar.core.teams import shares_of
from sidecar.errors import SidecarError
from sidecar.reconcile.period_usage import MARGIN_US, Row
from sidecar.reconcile.plan_history import PlanFiles, Who

MOST_EVENTS: Final = 20_000_000  # whose ids are remembered: some 70 bytes each
KINDS: Final = 10_000  # of calls, of one account

FieldOf = Callable[[QuotaLimit, str], str]


class CounterKey(NamedTuple):
    """A quota's counter in Redis: its field, the limit's id, the key of one per key, and the start
    of the period that it is of; 0 when that is not known. `team`: of a team's share, whose."""

    field: str
    limit_id: str
    key: str | None
    since_us: int
    team: str | None = None


class _Target(NamedTuple):
    """What a kind of call counts against. `sure`: False for what it may have counted against."""

    field: str
    limit: QuotaLimit
    key: str | None
    meter: str
    certain: bool
    sure: bool


class AccountUsage:
    """One account: its rows by field, the oldest period first."""

    def __init__(self, who: Who, plans: PlanFiles, field_of: FieldOf, now_us: int) -> None:
        self.who = who
        self.rows: dict[str, list[Row]] = {}
        self._plans = plans
        self._field_of = field_of
        self._now_us = now_us
        self._watched: frozenset[str] = frozenset()
        self._read_us: int | None = None
        self._targets: dict[tuple[object, ...], tuple[_Target, ...]] = {}

    def __iter__(self) -> Iterator[Row]:
        for _, rows in sorted(self.rows.items()):
            yield from rows

    def open(self, counters: Iterable[CounterKey], watched: Iterable[str]) -> list[str]:
        """A row for each counter, and one for the period that is now; the fields of counters that
        no plan has a limit for. `watched`: ids of open reservations, whose events are of interest.
        """
        self._watched = frozenset(watched)
        account, gone = self.who.account, []
        for counter in counters:
            limit = self._limit(counter.limit_id, counter.team)
            if limit is None or self._field_of(limit, counter.key or "") != counter.field:
                gone.append(counter.field)
                continue
            now, since = window_at(limit, account, self._now_us), counter.since_us
            if 0 < since < now.start:
                end = window_at(limit, account, since).end
                self._new(counter.field, limit, counter.key, since, end)
            start = since if now.start <= since < now.end else now.start
            self._new(counter.field, limit, counter.key, start, now.end)
        return gone

    def _limit(self, limit_id: str, team: str | None) -> QuotaLimit | None:
        """Today's quota of this id, or what the team has of it."""
        limit = self._plans.quota(limit_id, self.who.account.plan)
        if limit is None or team is None:
            return limit
        return shares_of(limit, self.who.account.teams, team) if limit.per == "account" else None

    def read(self, at_us: int, watched: Iterable[str]) -> None:
        """The counters are read: what comes from now on is fresh."""
        self._read_us, self._watched = at_us, frozenset(watched)
        for row in self:
            row.read()

    def _new(self, field: str, limit: QuotaLimit, key: str | None, start: int, end: int) -> Row:
        row = Row(self.who.account.id, field, limit, key, start, end)
        self.rows.setdefault(field, []).append(row)
        return row

    def add(self, call: RecordedRequest, is_new: Callable[[], bool]) -> None:
        """A call. `is_new` is asked when it is of interest; False: it was added before."""
        meters = tuple(meter for meter, _ in call.usage)
        targets = self._targets_of(call, meters)
        found = [(row, target) for target in targets for row in self._rows_at(target, call.time_us)]
        if not found or not is_new():
            return
        usage = dict(call.usage)
        for row, target in found:
            self._count(row, target, call, usage[target.meter])

    def _count(self, row: Row, target: _Target, call: RecordedRequest, units: int) -> None:
        if not call.billable:
            row.refunded += units if target.sure else 0
            units = 0
        if not target.sure:
            row.elsewhere += units
            return
        row.add(call.time_us, units, certain=target.certain, read_us=self._read_us)
        if call.id in self._watched:
            row.told[call.id] = units
            if self._read_us is not None:
                row.fresh_ids.add(call.id)

    def _rows_at(self, target: _Target, at_us: int) -> Iterator[Row]:
        rows = self.rows.get(target.field, ())
        yield from (row for row in rows if row.may_hold(at_us))
        if target.sure and (not rows or at_us >= rows[-1].end):
            window = window_at(target.limit, self.who.account, max(at_us, self._now_us))
            if at_us >= window.start - MARGIN_US:
                yield self._new(target.field, target.limit, target.key, window.start, window.end)

    def _targets_of(self, call: RecordedRequest, meters: Sequence[str]) -> tuple[_Target, ...]:
        name = call.key, call.team, call.plan, call.version, meters, len(self.rows)
        targets = self._targets.get(name)
        if targets is None:
            if len(self._targets) >= KINDS:
                self._targets.clear()
            targets = self._targets[name] = tuple(self._find_targets(call, meters))
        return targets

    def _find_targets(self, call: RecordedRequest, meters: Sequence[str]) -> Iterator[_Target]:
        counted = self._plans.counted(call.version, call.plan, meters)
        sure = set()
        for quota, team in _with_team(counted.quotas, call.team, self.who.account):
            field = self._field_of(quota, call.key)
            sure.add(field)
            limit = self._limit(quota.id, team)
            if limit is not None and self._field_of(limit, call.key) == field:
                key = call.key if quota.per == "key" else None
                yield _Target(field, limit, key, quota.meter, counted.certain, True)
        if counted.certain:
            return
        for field, rows in self.rows.items():
            limit, key = rows[-1].limit, rows[-1].key
            of_it = not isinstance(limit, TeamShare) or limit.team == call.team
            if field not in sure and limit.meter in meters and of_it and key in (None, call.key):
                yield _Target(field, limit, key, limit.meter, False, False)


def _with_team(
    quotas: Iterable[QuotaLimit], team: str, account: Account
) -> Iterator[tuple[QuotaLimit, str | None]]:
    """The quotas, and what a team has of the account's."""
    for quota in quotas:
        yield quota, None
        if team and quota.per == "account":
            yield shares_of(quota, account.teams, team), team


class Usage:
    """All accounts. `whose` says who an account is, from its id and the plan that a call names."""

    def __init__(
        self, plans: PlanFiles, whose: Callable[[str, str], Who], field_of: FieldOf, now_us: int
    ) -> None:
        self.accounts: dict[str, AccountUsage] = {}
        self._plans = plans
        self._whose = whose
        self._field_of = field_of
        self._now_us = now_us
        # Hashes of 64 bits: of 20 million, two are alike in one of 100,000 runs.
        self._seen: set[int] = set()

    def account(self, account_id: str, plan: str = "") -> AccountUsage:
        """What is known of an account."""
        known = self.accounts.get(account_id)
        if known is None:
            who = self._whose(account_id, plan)
            known = AccountUsage(who, self._plans, self._field_of, self._now_us)
            self.accounts[account_id] = known
        return known

    def add(self, call: RecordedRequest) -> None:
        """A call; one that was added before changes nothing. Raises SidecarError when there are
        more than can be remembered."""
        self.account(call.account, call.plan).add(call, lambda: self._is_new(call))

    def _is_new(self, call: RecordedRequest) -> bool:
        before = len(self._seen)
        self._seen.add(hash(call.identity))
        if before >= MOST_EVENTS:
            raise SidecarError(
                f"there are more than {MOST_EVENTS:,} calls in the periods that are compared; "
                "take one account at a time, with --account"
            )
        return len(self._seen) > before
