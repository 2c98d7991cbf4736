"""Answers of the limit store, and the terms of reservations that stay open."""

from typing import NamedTuple

from sidecar.core.model import Orphans


class QuotaDetail(NamedTuple):
    """More about a quota than what is used of it. Units; all 0 for limits of other kinds.

    `notified`: the highest percentage that was reported in this period before this request.
    `carried`: units carried over from the last period. `left`: what live grants still hold after
    this request. `burned`: what this request took from grants (negative: gave back).

    `overage`: units that this request's event has to report as overage. A reservation whose cost
    may still change has none until it is settled. `started_us`: the start of the counter's period,
    if that is not the start of the calendar's period, because its bounds have moved.

    Of a team's share, `notified` is what is left of the team's guarantee after this request. `left`
    is what is left of the other teams' guarantees.
    """

    notified: int = 0
    carried: int = 0
    left: int = 0
    burned: int = 0
    overage: int = 0
    started_us: int = 0


class Answer(NamedTuple):
    """The store's answer to a list of claims, in their order.

    `used`: after the grant (for a refusal or a peek: as it is), without what grants paid; in
    micro-units for rates, units for quotas, requests in flight for concurrency. `ends_us`: the end
    of the quota's period; 0 for other kinds, and -1 for a rate in shadow into which the request did
    not fit. `details`: () without grants, carried-over units and crossed thresholds. `local`: this
    sidecar answered from its local share, because Redis was unavailable.
    """

    granted: bool
    now_us: int
    used: tuple[int, ...]
    ends_us: tuple[int, ...]
    details: tuple[QuotaDetail, ...] = ()
    local: bool = False


class Hold(NamedTuple):
    """The terms of a reservation that stays open until it is settled under `id`, at most once.

    If the lease is not renewed for `lease_us`, its slots become free, and `orphans` decides
    whether its cost stays charged. `late`: its cost may change, so that overage is known only when
    it is settled.
    """

    id: str
    lease_us: int
    orphans: Orphans = "charge"
    late: bool = False
