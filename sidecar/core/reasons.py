"""What is decided about a request, and why. Plain values, in the units of `model.py`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from sidecar.core.kinds import QuotaLimit, RefillLimit
from sidecar.core.model import Claim


class Overage(NamedTuple):
    """Units beyond quotas: (meter, units) and (limit's id, units), only those that have some.

    Of several quotas on one meter, the meter has the largest overage: they count the same units.
    """

    meters: tuple[tuple[str, int], ...] = ()
    limits: tuple[tuple[str, int], ...] = ()


NO_OVERAGE: Final = Overage()


class Reason(StrEnum):
    """Why a request was allowed or refused. A finite set: metrics use it as a label."""

    OK = "ok"
    OVERAGE = "overage"  # allowed beyond a used-up quota, as the plan allows
    CRITICAL = "critical"  # allowed beyond a limit, because the route is critical
    STORE_DOWN = "store-down"  # allowed without an answer from Redis
    RATE = "rate"
    QUOTA = "quota"
    CONCURRENCY = "concurrency"
    ABUSE = "abuse"  # a critical request beyond the critical guard
    STORE_UNAVAILABLE = "store-unavailable"
    SPOOL_FULL = "spool-full"
    SHED = "shed"  # the API is overloaded, and more important requests go first
    AMBIGUOUS = "ambiguous-credential"
    NO_CREDENTIAL = "no-credential"
    UNKNOWN_KEY = "unknown-key"
    SUSPENDED = "suspended"
    FEATURE = "missing-feature"
    BAD_TARGET = "bad-target"
    NO_ROUTE = "no-route"
    NO_PLAN = "no-plan"  # the account's plan is not in the plan file
    DRAINING = "draining"
    DEFERRED = "deferred"  # does not fit now, and runs later as a job
    QUEUE_FULL = "queue-full"  # would be deferred, but the job queue is full
    OTHER_CALL = "idempotency-key-reused"  # for a request that differs
    BAD_KEY = "invalid-idempotency-key"  # on a request that may become a job
    JOB_RATE = "job-rate"  # its account adds and cancels jobs too fast


class TeamUse(NamedTuple):
    """A team's share of a quota after an answer. Units.

    `guaranteed`: in one period. `used`: by the team. `kept`: what is left of its guarantee.
    `others`: what is left of the other teams' guarantees. `room`: what is left of the quota for
    all teams. `most`: what the team can use in a new period at once, while nothing is lent.
    """

    team: str
    guaranteed: int
    used: int
    kept: int
    others: int
    room: int
    most: int

    @property
    def short(self) -> bool:
        """Whether less is left than is guaranteed to the others, and nothing for this team."""
        return self.kept == 0 and self.room < self.others

    @property
    def left(self) -> int:
        """Units that the team can use now."""
        return max(0, min(self.room, max(self.kept, self.room - self.others)))


class LimitStatus(NamedTuple):
    """One claim's limit after the answer.

    `limit_units`: what the customer has (burst, slots, or quota with carried-over units and
    grants). `used` and `remaining` are whole units. `reset_us`: the instant at which more becomes
    available (of a refusal: enough for this request); None when nothing is missing, and for
    concurrency, where it cannot be known.

    The status of a team's share is that of its quota, with the quota's claim; but `remaining` is
    what the team can use, and `team` is set.
    """

    claim: Claim
    limit_units: int
    used: int
    remaining: int
    reset_us: int | None
    team: TeamUse | None = None


@dataclass(frozen=True, slots=True)
class ThresholdCrossing:
    """A notice threshold that this request crossed."""

    limit: QuotaLimit
    percent: int
    used: int
    period_end_us: int


class Wait(NamedTuple):
    """How a refused request can wait until it fits.

    `limit`: the limit in whose wait queue it waits. `span_us`: until the next try is worth it (of
    slots, a guess). `patience_us`: how long the plan lets it wait.
    """

    limit: RefillLimit
    span_us: int
    patience_us: int


class Decision(NamedTuple):
    """What happens to a request and why; a value, never an exception.

    `tightest`: the limit with the smallest part left (None without limits or answer).
    `violated`: the limits that refuse, first the one that takes longest to recover.
    `known`: of a refusal, every limit that could have refused, in the order of the claims.
    `retry_us`: span until the request fits; None when waiting does not help or nothing is refused.
    `overage`: units beyond the quota, as far as they are known before the request is settled.
    `shadowed`: ids of limits in shadow that would have refused the request.
    `wait`: set if a refused request can wait instead.
    """

    allowed: bool
    reason: Reason
    now_us: int
    tightest: LimitStatus | None = None
    violated: tuple[LimitStatus, ...] = ()
    retry_us: int | None = None
    overage: Overage = NO_OVERAGE
    crossings: tuple[ThresholdCrossing, ...] = ()
    shadowed: tuple[str, ...] = ()
    wait: Wait | None = None
    known: tuple[LimitStatus, ...] = ()
