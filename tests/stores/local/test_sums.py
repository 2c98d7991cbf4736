"""Sums of uncharged requests: what of one key is charged together."""

import pytest

from sidecar.core.kinds import QuotaLimit
from sidecar.core.model import Account, Claim
from sidecar.stores.local.charger import ChargedUnits, Sum
from tests.support.stores.local_stage import a_quota

QUOTA = a_quota(100)
FIRST, SECOND = 100, 200  # instants at which periods start

Request = tuple[int, int, int, int]  # instant, start of its period, units, overage


def units_of(*requests: Request, limit: QuotaLimit = QUOTA) -> ChargedUnits:
    """The sum of requests on one quota."""
    one = Sum(Account("acme", "pro"), "k1", "journal", 1, 1)
    for seq, (at_us, since_us, units, over) in enumerate(requests, 1):
        one.add(seq, at_us, [(Claim(limit, units, forced=True), since_us, over)])
    assert (one.requests, one.last) == (len(requests), len(requests))
    [units_of_limit] = one.units.values()
    return units_of_limit


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([(110, FIRST, 3, 1), (120, FIRST, 4, 2)], (FIRST, 120, 7, 3)),
        ([(120, FIRST, 3, 1), (110, FIRST, 4, 2)], (FIRST, 120, 7, 3)),
        ([(110, FIRST, 3, 1), (210, SECOND, 4, 2)], (SECOND, 210, 4, 2)),
        ([(210, SECOND, 3, 1), (110, FIRST, 4, 2)], (SECOND, 210, 3, 1)),
    ],
    ids=["in order", "out of order", "two periods", "two periods out of order"],
)
def test_a_sum_has_the_units_of_the_latest_period_and_their_last_instant(
    requests: list[Request], expected: tuple[int, int, int, int]
) -> None:
    assert units_of(*requests)[1:] == expected
