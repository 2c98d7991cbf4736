"""What is asked of the store of limits besides claims, and what it answers. Nouns."""

from typing import NamedTuple

from sidecar.core.model import Orphans


class QuotaDetail(NamedTuple):
    """What there is to say of a quota besides `used`. Units; all 0 for limits of other kinds.

    `told`: the highest percentage that had been told in this period before this call. `carried`:
    what the last period left for this one. `left`: what live grants still hold, after this call.
    `burned`: what this call took from grants (negative: gave back).

    Of a team's share `told` is what is kept for the team after this call, and `left` what is
    kept for the others.
    """

    told: int = 0
    carried: int = 0
    left: int = 0
    burned: int = 0


class Answer(NamedTuple):
    """What Redis says of a list of claims, in their order.

    `used`: after the grant (or as it stands, for a refusal or a peek), in micro-units for
    rates, units for quotas, calls in flight for concurrency; without what grants paid for.
    `ends_us`: when the quota's period ends; 0 for the others, and -1 for a rate in shadow that the
    call did not fit into. `besides`: () when there are no
    grants, nothing was carried over, and no threshold was crossed. `alone`: it is not what Redis
    says, but one sidecar that could not ask.
    """

    granted: bool
    now_us: int
    used: tuple[int, ...]
    ends_us: tuple[int, ...]
    besides: tuple[QuotaDetail, ...] = ()
    alone: bool = False


class Hold(NamedTuple):
    """A reservation that stays open until it is settled under `id`, at most once.

    Its slots are given back when nobody renewed it for `lease_us`; what becomes of its cost
    then, `orphans` says.
    """

    id: str
    lease_us: int
    orphans: Orphans = "charge"
