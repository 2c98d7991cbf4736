"""The kinds of limits, as the program computes with them. Immutable and plain.

Units: quantities are integers in the meter's unit. A *micro-unit* is 1/1,000,000 of a unit (token
buckets only). Names that end in `_us` are microseconds; instants are in Redis time.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

MICRO: Final = 1_000_000
UNBOUNDED: Final = 2**53 - 1  # the largest integer that Lua's doubles hold exactly
MOST_UNITS: Final = 1_000_000_000  # that one request may reserve of one meter

Scope = Literal["account", "key"]
PeriodUnit = str  # "hour", "day", "week", "month", "cycle", or a number of seconds: "90s"


class Kind(NamedTuple):
    """The names of one kind of limit.

    `name`: in scripts and open reservations ("rate", "quota", "team", "slots"). `letter`: begins
    the limit's field in an account's state. `reason`: the `Reason` of its refusals.
    """

    name: str
    letter: str
    reason: str


RATE: Final = Kind("rate", "r", "rate")
QUOTA: Final = Kind("quota", "q", "quota")
TEAM: Final = Kind("team", "t", "quota")
SLOTS: Final = Kind("slots", "c", "concurrency")
LETTERS: Final = frozenset(kind.letter for kind in (RATE, QUOTA, TEAM, SLOTS))


@dataclass(frozen=True, slots=True)
class RateLimit:
    """A token bucket that refills with `units` per `window_us` and holds `burst` units.

    `refill` is the same rate as micro-units per microseconds, reduced: (5, 3) means that 5
    micro-units come back every 3 µs. The configuration keeps `burst * MICRO * refill[1]` below
    2**53, so that Lua computes it exactly. `max_wait_us`: how long a request that does not fit may
    wait; 0: it does not wait.
    """

    id: str
    meter: str
    units: int
    window_us: int
    burst: int
    refill: tuple[int, int]
    per: Scope = "account"
    shadow: bool = False
    max_wait_us: int = 0

    @property
    def kind(self) -> Kind:
        return RATE

    @property
    def capacity(self) -> int:
        """Units that one request can take at most."""
        return self.burst

    @property
    def full(self) -> int:
        """The counter when nothing is left, in its own unit."""
        return self.burst * MICRO

    def weight(self, cost: int) -> int:
        """`cost` units as the counter counts them: micro-units."""
        return cost * MICRO


@dataclass(frozen=True, slots=True)
class QuotaLimit:
    """`units` per `period`.

    Requests are refused beyond `cap`: `units`, or more with overage. `notices` are ascending
    percentages of `units`; each is reported once per period, when it is reached. `rollover`: how
    many unused units of one period are carried into the next.
    """

    id: str
    meter: str
    units: int
    period: PeriodUnit
    cap: int
    notices: tuple[int, ...] = ()
    per: Scope = "account"
    rollover: int = 0
    shadow: bool = False

    @property
    def kind(self) -> Kind:
        return QUOTA

    @property
    def capacity(self) -> int:
        """Units that one request can take at most, without packs and carried-over units."""
        return self.cap

    @property
    def full(self) -> int:
        """The counter when nothing is left, without packs and carried-over units."""
        return self.cap

    @property
    def max_wait_us(self) -> int:
        """0: no request waits for a quota."""
        return 0

    def weight(self, cost: int) -> int:
        """`cost` units as the counter counts them: units."""
        return cost


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most `slots` requests in flight. A request holds one slot until it is settled.

    `max_wait_us` is as for a rate.
    """

    id: str
    slots: int
    per: Scope = "account"
    shadow: bool = False
    meter: str = "calls"
    max_wait_us: int = 0

    @property
    def kind(self) -> Kind:
        return SLOTS

    @property
    def capacity(self) -> int:
        return self.slots

    @property
    def full(self) -> int:
        """The counter when all slots are taken."""
        return self.slots

    def weight(self, cost: int) -> int:  # noqa: ARG002 - as for other kinds
        """One slot, at any cost."""
        return 1


class Guarantee(NamedTuple):
    """Units of one quota that are guaranteed to one team; `lends` as in `Team`."""

    team: str
    units: int
    lends: bool


@dataclass(frozen=True, slots=True)
class TeamShare:
    """The part of an account's quota that one team uses: a counter beside the quota's.

    It has the id of its quota, and its claim follows the quota's. It has no cap of its own: it
    refuses a request that would use what is guaranteed to the `others` (`teams.py`). `units` are
    guaranteed to the team. `team` is "" for keys without a team, which have no guarantee.
    """

    id: str
    meter: str
    units: int
    period: PeriodUnit
    shadow: bool = False
    team: str = ""
    lends: bool = False
    others: tuple[Guarantee, ...] = ()

    @property
    def kind(self) -> Kind:
        return TEAM

    @property
    def per(self) -> Scope:
        return "account"

    @property
    def capacity(self) -> int:
        """No bound of its own: the quota has one."""
        return UNBOUNDED

    @property
    def full(self) -> int:
        """As `capacity`."""
        return UNBOUNDED

    @property
    def max_wait_us(self) -> int:
        """0: no request waits for a quota."""
        return 0

    def weight(self, cost: int) -> int:
        """`cost` units as the counter counts them: units."""
        return cost


# A limit in shadow is decided, counted and reported, but refuses nothing.
PeriodLimit = QuotaLimit | TeamShare  # counts per period
RefillLimit = RateLimit | ConcurrencyLimit  # recovers within seconds, so that requests can wait
Limit = RateLimit | QuotaLimit | ConcurrencyLimit | TeamShare
