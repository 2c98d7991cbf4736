"""The last known state of limits: which accounts and limits are dropped beyond the bounds."""

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.core.model import Claim
from sidecar.stores.snapshots import MOST_LIMITS, Snapshots
from tests.support.stores.local_stage import a_quota

CLAIM = Claim(a_quota(100), 1, forced=False)


def an_answer(now_us: int) -> Answer:
    return Answer(True, now_us, (1,), (10**15,), (QuotaDetail(),))


def test_I9_the_account_that_was_noted_longest_ago_is_dropped() -> None:
    snapshots = Snapshots(2)
    for at, account in enumerate(("a", "b", "a", "c"), 1):
        snapshots.note(account, "k1", (CLAIM,), an_answer(at))
    assert [bool(snapshots.of(account)) for account in "abc"] == [True, False, True]


def test_I9_of_one_account_the_oldest_limits_are_dropped() -> None:
    snapshots, per_key = Snapshots(), Claim(a_quota(100, per="key"), 1, forced=False)
    for number in range(MOST_LIMITS + 5):
        snapshots.note("a", f"k{number}", (per_key,), an_answer(number))
    kept = sorted(one.now_us for one in snapshots.of("a").values())
    assert kept == list(range(5, MOST_LIMITS + 5))
