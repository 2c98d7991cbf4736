"""What is decided of a call, and why. Nouns, as in `model.py`, and in its units."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sidecar.core.model import Claim, ConcurrencyLimit, QuotaLimit, RateLimit


class Reason(StrEnum):
    """Why a call was allowed or refused. A finite set: metrics use it as a label."""

    OK = "ok"
    OVERAGE = "overage"  # allowed past a spent quota, as the plan allows
    CRITICAL = "critical"  # allowed past a spent limit, because the route is critical
    STORE_DOWN = "store-down"  # allowed without an answer from Redis
    RATE = "rate"
    QUOTA = "quota"
    CONCURRENCY = "concurrency"
    ABUSE = "abuse"  # a critical call beyond the critical guard
    STORE_UNAVAILABLE = "store-unavailable"
    SPOOL_FULL = "spool-full"
    SHED = "shed"  # the API is overloaded, and others go first
    AMBIGUOUS = "ambiguous-credential"
    NO_CREDENTIAL = "no-credential"
    UNKNOWN_KEY = "unknown-key"
    SUSPENDED = "suspended"
    FEATURE = "missing-feature"
    BAD_TARGET = "bad-target"
    NO_ROUTE = "no-route"
    NO_PLAN = "no-plan"  # the account's plan is not in the plan file any more
    DRAINING = "draining"
    DEFERRED = "deferred"  # it does not fit now, and runs later as a job
    QUEUE_FULL = "queue-full"  # it would, but there is no room for its job
    OTHER_CALL = "idempotency-key-reused"  # for a call that differs


class TeamUse(NamedTuple):
    """How a team's share of a quota stands. Units: `guaranteed` in all, `used` by the team, `kept`
    for it and `others` for the other teams, and `room` that the quota still has, for all. `most`:
    what it may use in a new period at once, when nothing is lent."""

    team: str
    guaranteed: int
    used: int
    kept: int
    others: int
    room: int
    most: int

    @property
    def short(self) -> bool:
        """Whether less is there than is kept for the others, and nothing for this team."""
        return self.kept == 0 and self.room < self.others

    @property
    def left(self) -> int:
        """What the team may use now."""
        return max(0, min(self.room, max(self.kept, self.room - self.others)))


class LimitStatus(NamedTuple):
    """How one claim's limit stands after the answer.

    `limit_units` is what the customer has (burst, slots, or quota with what was carried over and
    what grants hold), `used` and `remaining` are whole units, `reset_us` the instant at which more
    becomes available (refusals: enough for this call); None when nothing is missing, and for
    concurrency, where nobody can tell.

    A team's share stands as its quota does, and the claim is the one on that; but `remaining` is
    what the team may use, and `team` is there.
    """

    claim: Claim
    limit_units: int
    used: int
    remaining: int
    reset_us: int | None
    team: TeamUse | None = None


@dataclass(frozen=True, slots=True)
class ThresholdCrossing:
    """A notice threshold that this very call crossed."""

    limit: QuotaLimit
    percent: int
    used: int
    period_end_us: int


class Wait(NamedTuple):
    """That a refused call may be held until it fits: the limit whose line it joins, the span until
    it is worth another try (of slots, a guess), and for how long the plan lets it be held."""

    limit: RateLimit | ConcurrencyLimit
    span_us: int
    patience_us: int


class Decision(NamedTuple):
    """What happens to a call and why; a value, never an exception.

    `tightest`: the limit with the smallest share left (None without limits or answer).
    `violated`: the limits that refuse, first the one that takes longest to recover.
    `shadowed`: ids of limits in shadow that would have refused the call.
    `retry_us`: span until the call fits; None when waiting does not help or nothing is refused.
    `overage`: units beyond the quota per meter, only meters that have some.
    `wait`: of a refused call that may be held instead; None when it may not.
    """

    allowed: bool
    reason: Reason
    now_us: int
    tightest: LimitStatus | None = None
    violated: tuple[LimitStatus, ...] = ()
    retry_us: int | None = None
    overage: tuple[tuple[str, int], ...] = ()
    crossings: tuple[ThresholdCrossing, ...] = ()
    shadowed: tuple[str, ...] = ()
    wait: Wait | None = None
