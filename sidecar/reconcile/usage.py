"""Sums of recorded requests by account, counter and period, each request once.

Redis decides by its clock in which period it charges a request. The event has an earlier time, by
the clock of the sidecar. So near the start of a period, `PeriodUsage` accounts for both periods.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sidecar.core.counting import limits
from sidecar.core.counting.counters import State, in_use
from sidecar.core.counting.counts import counts_of
from sidecar.core.counting.teams import team_share
from sidecar.core.events.read import RecordedRequest
from sidecar.core.kinds import PeriodLimit, QuotaLimit, TeamShare
from sidecar.core.model import Account
from sidecar.core.periods import window_at
from sidecar.errors import SidecarError
from sidecar.reconcile.period_usage import MARGIN_US, PeriodUsage
from sidecar.reconcile.plan_history import PlanHistory, ResolvedAccount

MAX_EVENTS: Final = 20_000_000  # about 70 bytes each
MAX_KINDS: Final = 10_000  # cached kinds of requests of one account

FieldOf = Callable[[PeriodLimit, str], str]


class CounterKey(NamedTuple):
    """The counter of a quota in Redis.

    `key`: of a quota per key, else None. `state`: as stored, `EMPTY` if it is unreadable. `team`:
    of the counter of a team, else None.
    """

    field: str
    limit_id: str
    key: str | None
    state: State
    team: str | None = None


class _Target(NamedTuple):
    """A counter that a kind of request charged.

    `certain`: its plan file is known. `sure`: it charged this counter; False: it may have.
    `quota_units`: of the quota in the request's own plan; `limit` is the current one. `alone`: no
    other quota of that plan counts the meter.
    """

    field: str
    limit: PeriodLimit
    key: str | None
    meter: str
    certain: bool
    sure: bool
    quota_units: int
    alone: bool = False


class AccountUsage:
    """The usage of one account: periods by field, oldest first."""

    def __init__(
        self, resolved: ResolvedAccount, plans: PlanHistory, field_of: FieldOf, now_us: int
    ) -> None:
        self.resolved = resolved
        self.periods: dict[str, list[PeriodUsage]] = {}
        self._plans = plans
        self._field_of = field_of
        self._now_us = now_us
        self._reserved: frozenset[str] = frozenset()
        self._read_us: int | None = None
        self._targets: dict[tuple[object, ...], tuple[_Target, ...]] = {}

    def __iter__(self) -> Iterator[PeriodUsage]:
        for _, periods in sorted(self.periods.items()):
            yield from periods

    def add_counters(self, counters: Iterable[CounterKey], reserved: Iterable[str]) -> list[str]:
        """Add the period of each counter, and the current period.

        `reserved`: ids of open reservations. Returns the fields without a current limit.
        """
        self._reserved = frozenset(reserved)
        account, without_limit = self.resolved.account, []
        for counter in counters:
            limit = self._limit(counter.limit_id, counter.team)
            if limit is None or self._field_of(limit, counter.key or "") != counter.field:
                without_limit.append(counter.field)
                continue
            window = window_at(limit, account, self._now_us)
            stored = in_use(counter.state, counts_of(limit), window, self._now_us)
            now, end = limits.current(limit, stored, window, self._now_us)
            if 0 < stored.since_us < now.since_us:
                past = stored.end_us or window_at(limit, account, stored.since_us).end
                past = min(past, now.since_us)
                self._add_period(counter.field, limit, counter.key, stored.since_us, past)
            self._add_period(counter.field, limit, counter.key, now.since_us, end)
        return without_limit

    def _limit(self, limit_id: str, team: str | None) -> PeriodLimit | None:
        """Return the current quota with this id, or the team's share of it."""
        limit = self._plans.quota(limit_id, self.resolved.account.plan)
        if limit is None or team is None:
            return limit
        return (
            team_share(limit, self.resolved.account.teams, team) if limit.per == "account" else None
        )

    def mark_read(self, at_us: int, reserved: Iterable[str]) -> None:
        """Mark the counters as read at this instant: events from now on are fresh."""
        self._read_us, self._reserved = at_us, frozenset(reserved)
        for period in self:
            period.mark_read()

    def _add_period(
        self, field: str, limit: PeriodLimit, key: str | None, start: int, end: int
    ) -> PeriodUsage:
        period = PeriodUsage(self.resolved.account.id, field, limit, key, start, end)
        self.periods.setdefault(field, []).append(period)
        return period

    def add(self, request: RecordedRequest, is_new: Callable[[], bool]) -> None:
        """Add a request to the periods that include it, unless it is a copy.

        `is_new` costs memory for each request, so it runs only if there is such a period.
        """
        meters = tuple(meter for meter, _ in request.usage)
        matches = [
            (period, target)
            for target in self._targets_of(request, meters)
            for period in self._periods_at(target, request.time_us)
        ]
        if not matches or not is_new():
            return
        usage = dict(request.usage)
        for period, target in matches:
            self._add_to(period, target, request, usage[target.meter])

    def _add_to(
        self, period: PeriodUsage, target: _Target, request: RecordedRequest, units: int
    ) -> None:
        if not request.billable:
            period.refunded += units if target.sure else 0
            units = 0
        if not target.sure:
            period.elsewhere += units
            return
        if period.fewest is None or target.quota_units < period.fewest:
            period.fewest = target.quota_units
        period.add(request.time_us, units, certain=target.certain, read_us=self._read_us)
        if request.overage and request.billable:
            period.add_overage(request.time_us, _overage(request, target))
        if request.id in self._reserved:
            period.recorded[request.id] = units
            if self._read_us is not None:
                period.fresh_ids.add(request.id)

    def _periods_at(self, target: _Target, at_us: int) -> Iterator[PeriodUsage]:
        periods = self.periods.get(target.field, ())
        yield from (period for period in periods if period.may_include(at_us))
        if target.sure and (not periods or at_us >= periods[-1].end):
            window = window_at(target.limit, self.resolved.account, max(at_us, self._now_us))
            start = max(window.start, periods[-1].end) if periods else window.start
            if at_us >= start - MARGIN_US:
                yield self._add_period(target.field, target.limit, target.key, start, window.end)

    def _targets_of(self, request: RecordedRequest, meters: Sequence[str]) -> tuple[_Target, ...]:
        kind = (
            request.key,
            request.team,
            request.plan,
            request.version,
            meters,
            len(self.periods),
        )
        targets = self._targets.get(kind)
        if targets is None:
            if len(self._targets) >= MAX_KINDS:
                self._targets.clear()
            targets = self._targets[kind] = tuple(self._find_targets(request, meters))
        return targets

    def _find_targets(self, request: RecordedRequest, meters: Sequence[str]) -> Iterator[_Target]:
        charged = self._plans.charged_quotas(request.version, request.plan, meters)
        sure = set()
        of_meters = Counter(quota.meter for quota in charged.quotas)
        for quota, team in _with_team(charged.quotas, request.team, self.resolved.account):
            field = self._field_of(quota, request.key)
            sure.add(field)
            limit = self._limit(quota.id, team)
            same = limit is not None and limit.meter == quota.meter
            if limit is not None and same and self._field_of(limit, request.key) == field:
                key = request.key if quota.per == "key" else None
                alone = of_meters[quota.meter] == 1
                yield _Target(
                    field, limit, key, quota.meter, charged.certain, True, quota.units, alone
                )
        if charged.certain:
            return
        for field, periods in self.periods.items():
            if field not in sure:
                limit, key = periods[-1].limit, periods[-1].key
                same_team = not isinstance(limit, TeamShare) or limit.team == request.team
                if limit.meter in meters and same_team and key in (None, request.key):
                    yield _Target(field, limit, key, limit.meter, False, False, limit.units)


def _overage(request: RecordedRequest, target: _Target) -> int | None:
    """Return the overage of one quota that a request's event has reported; None if not known."""
    if request.overage_by_limit:
        return dict(request.overage_by_limit).get(target.limit.id, 0)
    units = dict(request.overage).get(target.meter, 0)
    return units if target.alone or not units else None


def _with_team(
    quotas: Iterable[QuotaLimit], team: str, account: Account
) -> Iterator[tuple[PeriodLimit, str | None]]:
    """Yield the quotas, and the team's share of each quota of the account."""
    for quota in quotas:
        yield quota, None
        if team and quota.per == "account":
            yield team_share(quota, account.teams, team), team


class RecordedUsage:
    """The usage of all accounts. `resolve` finds an account by its id and a recorded plan."""

    def __init__(
        self,
        plans: PlanHistory,
        resolve: Callable[[str, str], ResolvedAccount],
        field_of: FieldOf,
        now_us: int,
    ) -> None:
        self.accounts: dict[str, AccountUsage] = {}
        self._plans = plans
        self._resolve = resolve
        self._field_of = field_of
        self._now_us = now_us
        # Hashes of 64 bits: among 20 million, two are equal in one of 100,000 runs.
        self._added: set[int] = set()

    def account(self, account_id: str, plan: str = "") -> AccountUsage:
        """Return the usage of an account; adds the account if it is new."""
        known = self.accounts.get(account_id)
        if known is None:
            resolved = self._resolve(account_id, plan)
            known = AccountUsage(resolved, self._plans, self._field_of, self._now_us)
            self.accounts[account_id] = known
        return known

    def add(self, request: RecordedRequest) -> None:
        """Add a request, unless it is a copy.

        Raises SidecarError if there are more than `MAX_EVENTS` requests.
        """
        self.account(request.account, request.plan).add(request, lambda: self._is_new(request))

    def _is_new(self, request: RecordedRequest) -> bool:
        before = len(self._added)
        self._added.add(hash(request.identity))
        if before >= MAX_EVENTS:
            raise SidecarError(
                f"--events: more than {MAX_EVENTS:,} requests in the compared periods; "
                "compare one account at a time with --account"
            )
        return len(self._added) > before
