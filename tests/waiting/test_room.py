"""Who waits for how long, in which order, and what it costs the store. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sidecar.core.model import MICRO, QuotaLimit
from sidecar.core.reasons import Decision, Reason
from sidecar.errors import StoreUnavailable
from sidecar.waiting.room import WaitingRoom
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting_stage import House, entitlement, key, rate, slots

ACME = key("acme")
Film = Callable[[], Awaitable[Any]]


def film(work: Film) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        in_virtual_time(work())

    run.__name__ = work.__name__
    run.__doc__ = work.__doc__
    return run


def reasons(results: list[tuple[Decision, str]]) -> list[str]:
    return [left for _, left in results]


@film
async def test_a_burst_is_served_in_order_at_the_rate() -> None:
    house, found = House(), entitlement(rate(5, 5, max_wait_s=10))
    names = [f"c{n}" for n in range(30)]
    results = await asyncio.gather(*(house.call(ACME, found, name) for name in names))
    assert all(decision.allowed for decision, _ in results)
    assert [name for _, name in house.served] == names
    times = [time for time, _ in house.served]
    assert times[:5] == [0.0] * 5
    assert times[5:] == pytest.approx([0.2 * n for n in range(1, 26)], abs=0.05)
    assert house.room.waiting == 0
    assert house.room.bytes == 0
    assert house.room._queues == {}


@film
async def test_the_store_is_asked_once_a_call_and_not_polled() -> None:
    house, found = House(), entitlement(rate(5, 5, max_wait_s=60))
    await asyncio.gather(*(house.call(ACME, found, str(n)) for n in range(100)))
    # Once when it came, as all come at once, and once in its turn.
    assert house.asked <= 5 + 95 * 2


@film
async def test_who_asks_the_store_is_not_overtaken_by_who_finds_others_waiting() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    slow, later = asyncio.Event(), asyncio.Event()

    async def call(name: str, answered: asyncio.Event | None = None) -> None:
        await house.call(ACME, found, name, answered=answered)

    calls = [asyncio.ensure_future(call("spends"))]
    calls.append(asyncio.ensure_future(call("held")))
    calls += [asyncio.ensure_future(call(name, slow)) for name in ("asks", "asks too")]
    await asyncio.sleep(0)
    while house.room.waiting < 1:
        await asyncio.sleep(0)
    calls.append(asyncio.ensure_future(call("finds", later)))
    later.set()
    while house.room.waiting < 2:
        await asyncio.sleep(0)
    slow.set()
    await asyncio.gather(*calls)
    assert [name for _, name in house.served] == ["spends", "held", "asks", "asks too", "finds"]


@film
async def test_who_comes_later_does_not_overtake() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(3)]
    await asyncio.sleep(0.5)
    asked = house.asked
    late = asyncio.ensure_future(house.call(ACME, found, "late"))
    await asyncio.sleep(0)
    assert house.asked == asked  # there are others before it: nobody need be asked
    await asyncio.gather(*calls, late)
    assert [name for _, name in house.served] == ["0", "1", "2", "late"]


@film
async def test_a_wait_that_does_not_fit_is_refused_at_once_and_says_how_long() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=3))
    results = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(4)]
    await asyncio.sleep(0.01)
    decision, left = await house.call(ACME, found, "fifth")
    assert (decision.allowed, decision.reason, left) == (False, Reason.RATE, "")
    assert decision.retry_us is not None
    assert 3.9 * MICRO < decision.retry_us < 4.1 * MICRO
    await asyncio.gather(*results)
    assert [name for _, name in house.served] == ["0", "1", "2", "3"]


@film
async def test_the_client_may_want_to_wait_less_but_not_longer() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=3))
    await house.call(ACME, found, "first")
    decision, left = await house.call(ACME, found, "hasty", patience_us=0)
    assert (decision.allowed, left) == (False, "")
    calls = [house.call(ACME, found, str(n), patience_us=100 * MICRO) for n in range(5)]
    assert reasons(await asyncio.gather(*calls)) == ["served"] * 3 + [""] * 2


@film
async def test_a_client_that_leaves_frees_its_place_at_once() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n), size=100)) for n in range(4)]
    await asyncio.sleep(0.5)
    assert (house.room.waiting, house.room.bytes) == (3, 300)
    calls[1].cancel()
    await asyncio.sleep(0)
    assert (house.room.waiting, house.room.bytes) == (2, 200)
    await asyncio.gather(*calls, return_exceptions=True)
    assert [name for _, name in house.served] == ["0", "2", "3"]
    assert house.served[1][0] == pytest.approx(1.0, abs=0.01)  # in the place that became free
    assert house.room.ended["gone"] == 1


@film
async def test_who_leaves_during_its_try_does_not_stop_the_line() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    real = house.store.reserve
    stuck = asyncio.Event()

    async def slow(*args: Any, **options: Any) -> Any:
        if house.asked == 3:  # the first that had its turn
            await stuck.wait()
        return await real(*args, **options)

    house.store.reserve = slow  # type: ignore[method-assign]
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(3)]
    await asyncio.sleep(1.5)
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert [name for _, name in house.served] == ["0", "2"]
    assert house.room._queues == {}


@film
async def test_draining_sends_away_whoever_waits_and_takes_nobody() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(3)]
    await asyncio.sleep(0.5)
    house.room.close()
    assert reasons(await asyncio.gather(*calls)) == ["", "drained", "drained"]
    decision, left = await house.call(ACME, found, "late")
    assert (decision.allowed, left) == (False, "")


@film
async def test_a_critical_call_never_stands_behind_a_waiting_one() -> None:
    limit = rate(1, 1, max_wait_s=60)
    house, found = House(), entitlement(limit)
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(3)]
    await asyncio.sleep(0.5)
    decision, left = await house.call(ACME, entitlement(limit, critical=True), "critical")
    assert (decision.allowed, left) == (True, "")
    assert house.served[-1] == (0.5, "critical")
    await asyncio.gather(*calls)


@film
async def test_a_quota_lets_nobody_wait() -> None:
    quota = QuotaLimit("monthly", "requests", 1, "month", 1)
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60), quota)
    await house.call(ACME, found, "first")
    decision, left = await house.call(ACME, found, "second")
    assert (decision.reason, decision.wait, left) == (Reason.QUOTA, None, "")


@film
async def test_a_quota_that_is_spent_meanwhile_ends_the_wait() -> None:
    quota = QuotaLimit("monthly", "requests", 2, "month", 2)
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60), quota)
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(4)]
    results = await asyncio.gather(*calls)
    assert reasons(results) == ["", "served", "refused", "refused"]
    assert results[-1][0].reason is Reason.QUOTA


@film
async def test_slots_are_handed_on_when_a_call_ends() -> None:
    house, found = House(), entitlement(slots(2, max_wait_s=60))
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(4)]
    await asyncio.sleep(0.03)
    assert [name for _, name in house.served] == ["0", "1"]
    house.end(ACME, found, "1")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert house.served[2:] == [(0.03, "2")]
    house.end(ACME, found, "0")
    await asyncio.gather(*calls)
    assert [name for _, name in house.served] == ["0", "1", "2", "3"]


@film
async def test_slots_that_nobody_gives_back_end_the_wait_in_time() -> None:
    house, found = House(), entitlement(slots(1, max_wait_s=2))
    await house.call(ACME, found, "first")
    began = asyncio.get_running_loop().time()
    decision, left = await house.call(ACME, found, "second")
    assert (decision.reason, left) == (Reason.CONCURRENCY, "timed-out")
    assert asyncio.get_running_loop().time() - began <= 2.06
    assert house.asked <= 2 + 2 * 10  # ten looks a second


@film
async def test_a_slot_that_another_sidecar_frees_is_found() -> None:
    house, found = House(), entitlement(slots(1, max_wait_s=60))
    await house.call(ACME, found, "elsewhere")
    call = asyncio.ensure_future(house.call(ACME, found, "here"))
    await asyncio.sleep(5)
    house.store.settle(ACME.account, ACME.id, found.claims, "elsewhere")
    await call
    assert house.served[1][0] == pytest.approx(5.05, abs=0.06)


@film
async def test_two_limits_in_the_way_are_waited_for_one_after_the_other() -> None:
    slow = rate(1, 1, max_wait_s=60, name="slow")
    fast = rate(4, 1, max_wait_s=60, name="fast")
    house = House()
    both, one = entitlement(slow, fast), entitlement(fast)
    calls = [asyncio.ensure_future(house.call(ACME, both, f"b{n}")) for n in range(3)]
    calls += [asyncio.ensure_future(house.call(ACME, one, f"o{n}")) for n in range(8)]
    results = await asyncio.gather(*calls)
    assert all(decision.allowed for decision, _ in results)
    slow_at = [time for time, name in house.served if name.startswith("b")]
    assert slow_at == pytest.approx([0.0, 1.0, 2.0], abs=0.6)
    assert house.room._queues == {}


@film
async def test_one_account_gets_half_of_the_room_at_most() -> None:
    house, found = House(most=100), entitlement(rate(1, 1, max_wait_s=300))
    flood = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(200)]
    await asyncio.sleep(0.1)
    assert house.room.waiting == 50
    other = key("other")
    calls = [asyncio.ensure_future(house.call(other, found, f"o{n}")) for n in range(10)]
    await asyncio.sleep(0.1)
    assert house.room.waiting == 59  # one of ten went on at once
    assert house.room.overflows == 149
    await asyncio.gather(*flood, *calls)


@film
async def test_bytes_are_bounded_too() -> None:
    house, found = House(most_bytes=1000), entitlement(rate(1, 1, max_wait_s=300))
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n), size=200)) for n in range(9)]
    await asyncio.sleep(0.1)
    assert house.room.bytes == 400  # as much as would still be free
    await asyncio.gather(*calls)


@film
async def test_accounts_do_not_stand_behind_each_other() -> None:
    house, found = House(), entitlement(rate(10, 1, max_wait_s=300))
    flood = [asyncio.ensure_future(house.call(ACME, found, "flood")) for _ in range(500)]
    other = key("other")
    calls = [asyncio.ensure_future(house.call(other, found, f"o{n}")) for n in range(10)]
    await asyncio.gather(*calls)
    assert asyncio.get_running_loop().time() == pytest.approx(0.9, abs=0.1)
    for call in flood:
        call.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert house.room.waiting == 0


@film
async def test_keys_of_an_account_have_lines_of_their_own_for_limits_per_key() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60, per="key"))
    first = [asyncio.ensure_future(house.call(ACME, found, f"a{n}")) for n in range(4)]
    await asyncio.sleep(0.1)
    second = key("acme", "k2")
    decision, left = await house.call(second, found, "b0")
    assert (decision.allowed, left) == (True, "")
    await asyncio.gather(*first)


@film
async def test_a_store_that_is_lost_meanwhile_ends_the_wait() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    await house.call(ACME, found, "first")
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(3)]
    await asyncio.sleep(0.1)

    async def gone(*_args: Any, **_options: Any) -> Any:
        raise StoreUnavailable("gone")

    house.store.reserve = gone  # type: ignore[method-assign]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert house.room.waiting == 0
    assert house.room._queues == {}


@film
async def test_a_fault_of_ours_during_a_try_is_told_as_it_is() -> None:
    house, found = House(), entitlement(rate(1, 1, max_wait_s=60))
    await house.call(ACME, found, "first")
    call = asyncio.ensure_future(house.call(ACME, found, "second"))
    await asyncio.sleep(0.1)

    async def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("a fault")

    house.store.reserve = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a fault"):
        await call
    assert (house.room.waiting, house.room.ended["refused"]) == (0, 1)


@film
async def test_many_that_fit_at_once_go_on_at_once() -> None:
    """After a pause, a bucket holds enough for many: they do not go one by one."""
    house, found = House(), entitlement(rate(1000, 1000, max_wait_s=60))
    calls = [asyncio.ensure_future(house.call(ACME, found, str(n))) for n in range(5000)]
    results = await asyncio.gather(*calls)
    assert all(decision.allowed for decision, _ in results)
    assert asyncio.get_running_loop().time() == pytest.approx(4.0, abs=0.1)
    assert [name for _, name in house.served] == [str(n) for n in range(5000)]


def test_nobody_waits_in_an_empty_room() -> None:
    room = WaitingRoom(max_requests=10, max_bytes=10)
    assert room.refusal_behind_queue(ACME, entitlement(rate(1, 1, max_wait_s=1)).claims) is None
