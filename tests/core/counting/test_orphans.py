"""Reservation leases of sidecars that died: which ones end, and at which instant."""

from sidecar.core.answers import Hold
from sidecar.core.counting import account as accounts
from sidecar.core.counting.orphans import SWEPT, sweep
from sidecar.core.counting.reservations import NEW
from sidecar.core.counting.survey import BoundClaim
from sidecar.core.kinds import ConcurrencyLimit
from sidecar.core.model import Claim

NOW = 1_796_083_200_000_000


def slot_of(slots: int) -> list[BoundClaim]:
    return [BoundClaim("c:at-once", Claim(ConcurrencyLimit("at-once", slots), 1, forced=False))]


def test_a_slot_is_free_at_the_instant_at_which_its_lease_ends() -> None:
    claims = slot_of(1)
    answer, account = accounts.reserve(NEW, claims, NOW, Hold("h1", 1_000))
    assert answer.granted
    for now, granted in ((NOW + 999, False), (NOW + 1_000, True)):
        assert accounts.peek(account, claims, now).granted is granted
        assert accounts.reserve(account, claims, now, Hold("h2", 1_000))[0].granted is granted


def test_I9_of_many_expired_leases_the_oldest_end_first() -> None:
    account = NEW
    for left in reversed(range(SWEPT + 4)):
        hold = Hold(f"h{left}", 1_000 + left)
        _, account = accounts.reserve(account, slot_of(100), NOW, hold)
    account = sweep(account, NOW + 5_000)
    assert set(account.leases) == {f"h{SWEPT + at}" for at in range(4)}
    assert not sweep(account, NOW + 5_000).leases
