"""Open reservations in every store: slots, settlements and refunds, each exactly once."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from sidecar.core.answers import Answer, Hold
from sidecar.core.claims import at_no_cost
from sidecar.core.kinds import MICRO, ConcurrencyLimit
from sidecar.core.model import Claim
from sidecar.ports import LimitStore
from tests.contracts.test_limit_store import ACME, ADAPTERS, a_claim, a_quota, a_rate

LONG = 3_600 * MICRO  # no lease expires during a test
SLOTS = ConcurrencyLimit("in-flight", 2)


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LimitStore]:
    async with ADAPTERS[request.param](request) as store:
        yield store


def a_hold(name: str) -> Hold:
    return Hold(name, LONG)


async def settled(
    store: LimitStore, claims: Sequence[Claim], hold_id: str, key_id: str = "k1"
) -> Answer:
    """Settle, and wait for the store's answer."""
    answers: asyncio.Queue[Answer] = asyncio.Queue()
    store.settle(ACME, key_id, claims, hold_id, answers.put_nowait)
    async with asyncio.timeout(20):
        return await answers.get()


async def used(store: LimitStore, *claims: Claim) -> tuple[int, ...]:
    return (await store.peek(ACME, "k1", claims)).used


async def test_slots_are_taken_until_they_are_settled(store: LimitStore) -> None:
    claims = (a_claim(SLOTS),)
    for name in ("a", "b"):
        assert (await store.reserve(ACME, "k1", claims, hold=a_hold(name))).granted
    refused = await store.reserve(ACME, "k1", claims, hold=a_hold("c"))
    assert (refused.granted, refused.used) == (False, (2,))
    assert (await settled(store, claims, "a")).used == (1,)
    assert (await store.reserve(ACME, "k1", claims, hold=a_hold("d"))).granted


async def test_I2_a_refused_reservation_takes_no_slot(store: LimitStore) -> None:
    spent = a_quota(0, id="spent")
    claims = (a_claim(SLOTS), a_claim(spent))
    for name in ("a", "b", "c"):
        assert not (await store.reserve(ACME, "k1", claims, hold=a_hold(name))).granted
    assert await used(store, a_claim(SLOTS)) == (0,)


async def test_I3_a_forced_claim_takes_a_slot_beyond_the_last(store: LimitStore) -> None:
    claims = (a_claim(SLOTS, forced=True),)
    for number in range(4):
        assert (await store.reserve(ACME, "k1", claims, hold=a_hold(f"h{number}"))).granted
    assert await used(store, *claims) == (4,)


async def test_slots_per_key_count_for_each_key(store: LimitStore) -> None:
    claims = (a_claim(ConcurrencyLimit("mine", 1, per="key")),)
    assert (await store.reserve(ACME, "k1", claims, hold=a_hold("a"))).granted
    assert not (await store.reserve(ACME, "k1", claims, hold=a_hold("b"))).granted
    assert (await store.reserve(ACME, "k2", claims, hold=a_hold("c"))).granted


@pytest.mark.parametrize("real", [0, 3, 10, 25, 300])
async def test_a_settlement_corrects_to_the_actual_cost_and_does_not_clip_debt(
    store: LimitStore, real: int
) -> None:
    quota, rate = a_quota(100), a_rate(100)
    reserved = (a_claim(quota, 10), a_claim(rate, 10))
    assert (await store.reserve(ACME, "k1", reserved, hold=a_hold("a"))).granted
    answer = await settled(store, (a_claim(quota, real), a_claim(rate, real)), "a")
    assert answer.used[0] == real
    assert real * MICRO - MICRO < answer.used[1] <= real * MICRO
    fits = (await store.peek(ACME, "k1", (a_claim(quota), a_claim(rate)))).granted
    assert fits is (real < 100)


async def test_a_reservation_is_settled_once_however_often_settle_is_called(
    store: LimitStore,
) -> None:
    quota = a_quota(100)
    await store.reserve(ACME, "k1", (a_claim(quota, 10),), hold=a_hold("a"))
    await settled(store, (a_claim(quota, 30),), "a")
    for cost in (0, 30, 90):
        store.settle(ACME, "k1", (a_claim(quota, cost),), "a")
    await store.reserve(ACME, "k1", (a_claim(quota, 1),), hold=a_hold("b"))
    await settled(store, (a_claim(quota, 1),), "b")  # after the others
    assert await used(store, a_claim(quota)) == (31,)


async def test_a_refund_returns_all_units_and_not_those_of_others(
    store: LimitStore,
) -> None:
    claims = (a_claim(a_quota(100), 7), a_claim(a_rate(100), 7), a_claim(SLOTS))
    for name in ("a", "b"):
        await store.reserve(ACME, "k1", claims, hold=a_hold(name))
    answer = await settled(store, at_no_cost(claims), "a")
    assert (answer.used[0], answer.used[2]) == (7, 1)
    assert 6 * MICRO < answer.used[1] <= 7 * MICRO


async def test_a_threshold_is_reported_once_by_the_request_that_reaches_it(
    store: LimitStore,
) -> None:
    quota = a_quota(100, notices=(50, 80), cap=1000)
    first = await store.reserve(ACME, "k1", (a_claim(quota, 10),), hold=a_hold("a"))
    assert not first.details or first.details[0].notified == 0
    answer = await settled(store, (a_claim(quota, 60),), "a")
    assert (answer.used, answer.details[0].notified) == ((60,), 0)  # 50 % were not reported before
    await store.reserve(ACME, "k1", (a_claim(quota, 30),), hold=a_hold("b"))
    await settled(store, (a_claim(quota, 0),), "b")
    again = await store.reserve(ACME, "k1", (a_claim(quota, 31),))
    assert again.used == (91,)
    assert not again.details or again.details[0].notified == 80  # it stays reported


async def test_settling_an_unknown_reservation_changes_nothing(store: LimitStore) -> None:
    quota = a_quota(100)
    store.settle(ACME, "k1", (a_claim(quota, 50),), "unknown")
    await store.reserve(ACME, "k1", (a_claim(quota, 1),), hold=a_hold("a"))
    await settled(store, (a_claim(quota, 1),), "a")
    assert await used(store, a_claim(quota)) == (1,)


async def test_I1_concurrent_requests_never_take_more_slots_than_there_are(
    store: LimitStore,
) -> None:
    claims = (a_claim(ConcurrencyLimit("in-flight", 7)), a_claim(a_quota(1000)))
    most = 0

    async def one(number: int) -> bool:
        nonlocal most
        answer = await store.reserve(ACME, "k1", claims, hold=a_hold(f"h{number}"))
        if answer.granted:
            most = max(most, answer.used[0])
            await asyncio.sleep(0)
            await settled(store, claims, f"h{number}")
        return answer.granted

    granted = await asyncio.gather(*(one(number) for number in range(200)))
    assert 1 <= most <= 7
    assert await used(store, *claims) == (0, sum(granted))


async def test_I11_overage_is_reported_once_a_late_cost_is_settled(store: LimitStore) -> None:
    soft = a_quota(100, cap=1000)
    late = Hold("a", LONG, late=True)
    reserved = await store.reserve(ACME, "k1", (a_claim(soft, 150),), hold=late)
    assert all(detail.overage == 0 for detail in reserved.details)
    fixed = await store.reserve(ACME, "k1", (a_claim(soft, 30),))
    assert all(detail.overage == 0 for detail in fixed.details)  # the other one may cost nothing
    answer = await settled(store, (a_claim(soft, 90),), "a")
    assert (answer.granted, answer.used, answer.details[0].overage) == (True, (120,), 20)


async def test_I11_a_settlement_that_is_sent_again_reports_the_same_overage(
    store: LimitStore,
) -> None:
    """The first answer may have been lost."""
    soft, hard = a_quota(100, cap=1000), a_quota(1000, id="hard")
    claims = (a_claim(hard, 10), a_claim(soft, 10))
    assert (await store.reserve(ACME, "k1", claims, hold=Hold("a", LONG, late=True))).granted
    actual = (a_claim(hard, 160), a_claim(soft, 160))
    first, again = [await settled(store, actual, "a") for _ in range(2)]
    assert (first.granted, again.granted) == (True, False)
    assert [one.overage for one in first.details] == [one.overage for one in again.details]
    assert [one.overage for one in again.details] == [0, 60]
    following = await store.reserve(ACME, "k1", (a_claim(soft, 5),))
    assert (following.used, following.details[0].overage) == ((165,), 5)


async def test_I11_a_request_without_a_bill_reports_no_overage(store: LimitStore) -> None:
    soft = a_quota(100, cap=1000)
    claims = (a_claim(soft, 150),)
    for name in ("a", "b"):
        assert (await store.reserve(ACME, "k1", claims, hold=Hold(name, LONG, late=True))).granted
    answers: asyncio.Queue[Answer | None] = asyncio.Queue()
    store.settle(ACME, "k1", at_no_cost(claims), "a", answers.put_nowait, billed=False)
    async with asyncio.timeout(20):
        answer = await answers.get()
    assert answer is not None
    assert (answer.used, answer.details[0].overage) == ((150,), 0)
    assert (await settled(store, claims, "b")).details[0].overage == 50
