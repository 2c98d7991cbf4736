"""Order, length and end of waits, and the tries that they cost. In virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sidecar.core.answers import Answer
from sidecar.core.kinds import MICRO, QuotaLimit
from sidecar.core.reasons import Decision, Reason
from sidecar.errors import StoreUnavailable
from sidecar.waiting.room import WaitingRoom
from tests.support.virtual_time import in_virtual_time
from tests.support.waiting_stage import WaitingStage, entitlement, key, rate, slots

ACME = key("acme")
Work = Callable[[], Awaitable[Any]]


def virtual(work: Work) -> Callable[[], None]:
    """Run a test in virtual time."""

    def run() -> None:
        in_virtual_time(work())

    run.__name__ = work.__name__
    run.__doc__ = work.__doc__
    return run


def ends(results: list[tuple[Decision, str]]) -> list[str]:
    return [end for _, end in results]


@virtual
async def test_a_burst_is_served_in_order_at_the_rate() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(5, 5, max_wait_s=10))
    names = [f"c{n}" for n in range(30)]
    results = await asyncio.gather(*(stage.request(ACME, entitled, name) for name in names))
    assert all(decision.allowed for decision, _ in results)
    assert [name for _, name in stage.served] == names
    times = [time for time, _ in stage.served]
    assert times[:5] == [0.0] * 5
    assert times[5:] == pytest.approx([0.2 * n for n in range(1, 26)], abs=0.05)
    assert stage.room.waiting == 0
    assert stage.room.bytes == 0
    assert stage.room._queues == {}


@virtual
async def test_waiting_requests_do_not_poll_the_store() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(5, 5, max_wait_s=60))
    await asyncio.gather(*(stage.request(ACME, entitled, str(n)) for n in range(100)))
    # One try on arrival, as all arrive together, and one when it fits.
    assert stage.tries <= 5 + 95 * 2


@virtual
async def test_a_slow_first_answer_does_not_cost_a_request_its_position() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    slow, later = asyncio.Event(), asyncio.Event()

    async def request(name: str, answered: asyncio.Event | None = None) -> None:
        await stage.request(ACME, entitled, name, answered=answered)

    requests = [asyncio.ensure_future(request("first"))]
    requests.append(asyncio.ensure_future(request("waits")))
    requests += [asyncio.ensure_future(request(name, slow)) for name in ("slow", "slow too")]
    await asyncio.sleep(0)
    while stage.room.waiting < 1:
        await asyncio.sleep(0)
    requests.append(asyncio.ensure_future(request("late", later)))
    later.set()
    while stage.room.waiting < 2:
        await asyncio.sleep(0)
    slow.set()
    await asyncio.gather(*requests)
    assert [name for _, name in stage.served] == ["first", "waits", "slow", "slow too", "late"]


@virtual
async def test_a_later_request_does_not_overtake() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(3)]
    await asyncio.sleep(0.5)
    tries = stage.tries
    late = asyncio.ensure_future(stage.request(ACME, entitled, "late"))
    await asyncio.sleep(0)
    assert stage.tries == tries  # others wait before it, so the store is not asked
    await asyncio.gather(*requests, late)
    assert [name for _, name in stage.served] == ["0", "1", "2", "late"]


@virtual
async def test_too_long_a_wait_is_refused_at_once_with_its_length() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=3))
    results = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(4)]
    await asyncio.sleep(0.01)
    decision, end = await stage.request(ACME, entitled, "fifth")
    assert (decision.allowed, decision.reason, end) == (False, Reason.RATE, "")
    assert decision.retry_us is not None
    assert 3.9 * MICRO < decision.retry_us < 4.1 * MICRO
    await asyncio.gather(*results)
    assert [name for _, name in stage.served] == ["0", "1", "2", "3"]


@virtual
async def test_the_client_can_shorten_the_wait_but_not_extend_it() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=3))
    await stage.request(ACME, entitled, "first")
    decision, end = await stage.request(ACME, entitled, "hasty", patience_us=0)
    assert (decision.allowed, end) == (False, "")
    requests = [stage.request(ACME, entitled, str(n), patience_us=100 * MICRO) for n in range(5)]
    assert ends(await asyncio.gather(*requests)) == ["served"] * 3 + [""] * 2


@virtual
async def test_a_client_that_leaves_frees_its_capacity_at_once() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    requests = [
        asyncio.ensure_future(stage.request(ACME, entitled, str(n), size=100)) for n in range(4)
    ]
    await asyncio.sleep(0.5)
    assert (stage.room.waiting, stage.room.bytes) == (3, 300)
    requests[1].cancel()
    await asyncio.sleep(0)
    assert (stage.room.waiting, stage.room.bytes) == (2, 200)
    await asyncio.gather(*requests, return_exceptions=True)
    assert [name for _, name in stage.served] == ["0", "2", "3"]
    assert stage.served[1][0] == pytest.approx(1.0, abs=0.01)  # in the freed position
    assert stage.room.ended["gone"] == 1


@virtual
async def test_a_client_that_leaves_during_its_try_does_not_stop_the_queue() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    real = stage.store.reserve
    stuck = asyncio.Event()

    async def slow(*args: Any, **options: Any) -> Any:
        if stage.tries == 3:  # the first try after a wait
            await stuck.wait()
        return await real(*args, **options)

    stage.store.reserve = slow  # type: ignore[method-assign]
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(3)]
    await asyncio.sleep(1.5)
    requests[1].cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    assert [name for _, name in stage.served] == ["0", "2"]
    assert stage.room._queues == {}


@virtual
async def test_draining_ends_all_waits_and_queues_no_more() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(3)]
    await asyncio.sleep(0.5)
    stage.room.close()
    assert ends(await asyncio.gather(*requests)) == ["", "drained", "drained"]
    decision, end = await stage.request(ACME, entitled, "late")
    assert (decision.allowed, end) == (False, "")


@virtual
async def test_a_critical_request_never_queues() -> None:
    limit = rate(1, 1, max_wait_s=60)
    stage, entitled = WaitingStage(), entitlement(limit)
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(3)]
    await asyncio.sleep(0.5)
    decision, end = await stage.request(ACME, entitlement(limit, critical=True), "critical")
    assert (decision.allowed, end) == (True, "")
    assert stage.served[-1] == (0.5, "critical")
    await asyncio.gather(*requests)


@virtual
async def test_a_quota_has_no_wait() -> None:
    quota = QuotaLimit("monthly", "requests", 1, "month", 1)
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60), quota)
    await stage.request(ACME, entitled, "first")
    decision, end = await stage.request(ACME, entitled, "second")
    assert (decision.reason, decision.wait, end) == (Reason.QUOTA, None, "")


@virtual
async def test_a_quota_that_is_used_up_during_the_wait_ends_it() -> None:
    quota = QuotaLimit("monthly", "requests", 2, "month", 2)
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60), quota)
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(4)]
    results = await asyncio.gather(*requests)
    assert ends(results) == ["", "served", "refused", "refused"]
    assert results[-1][0].reason is Reason.QUOTA


@virtual
async def test_a_freed_slot_goes_to_a_waiting_request() -> None:
    stage, entitled = WaitingStage(), entitlement(slots(2, max_wait_s=60))
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(4)]
    await asyncio.sleep(0.03)
    assert [name for _, name in stage.served] == ["0", "1"]
    stage.end(ACME, entitled, "1")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert stage.served[2:] == [(0.03, "2")]
    stage.end(ACME, entitled, "0")
    await asyncio.gather(*requests)
    assert [name for _, name in stage.served] == ["0", "1", "2", "3"]


@virtual
async def test_a_wait_for_slots_ends_at_its_deadline() -> None:
    stage, entitled = WaitingStage(), entitlement(slots(1, max_wait_s=2))
    await stage.request(ACME, entitled, "first")
    began = asyncio.get_running_loop().time()
    decision, end = await stage.request(ACME, entitled, "second")
    assert (decision.reason, end) == (Reason.CONCURRENCY, "timed-out")
    assert asyncio.get_running_loop().time() - began <= 2.06
    assert stage.tries <= 2 + 2 * 10  # ten tries per second


@virtual
async def test_a_slot_that_another_sidecar_frees_is_used() -> None:
    stage, entitled = WaitingStage(), entitlement(slots(1, max_wait_s=60))
    await stage.request(ACME, entitled, "elsewhere")
    request = asyncio.ensure_future(stage.request(ACME, entitled, "here"))
    await asyncio.sleep(5)
    stage.store.settle(ACME.account, ACME.id, entitled.claims, "elsewhere")
    await request
    assert stage.served[1][0] == pytest.approx(5.05, abs=0.06)


@virtual
async def test_a_request_waits_for_two_limits_one_after_the_other() -> None:
    slow = rate(1, 1, max_wait_s=60, name="slow")
    fast = rate(4, 1, max_wait_s=60, name="fast")
    stage = WaitingStage()
    both, one = entitlement(slow, fast), entitlement(fast)
    requests = [asyncio.ensure_future(stage.request(ACME, both, f"b{n}")) for n in range(3)]
    requests += [asyncio.ensure_future(stage.request(ACME, one, f"o{n}")) for n in range(8)]
    results = await asyncio.gather(*requests)
    assert all(decision.allowed for decision, _ in results)
    slow_at = [time for time, name in stage.served if name.startswith("b")]
    assert slow_at == pytest.approx([0.0, 1.0, 2.0], abs=0.6)
    assert stage.room._queues == {}


@virtual
async def test_one_account_gets_at_most_half_of_the_capacity() -> None:
    stage, entitled = WaitingStage(most=100), entitlement(rate(1, 1, max_wait_s=300))
    flood = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(200)]
    await asyncio.sleep(0.1)
    assert stage.room.waiting == 50
    other = key("other")
    requests = [asyncio.ensure_future(stage.request(other, entitled, f"o{n}")) for n in range(10)]
    await asyncio.sleep(0.1)
    assert stage.room.waiting == 59  # one of ten was allowed at once
    assert stage.room.overflows == 149
    await asyncio.gather(*flood, *requests)


@virtual
async def test_bytes_are_bounded_too() -> None:
    stage, entitled = WaitingStage(most_bytes=1000), entitlement(rate(1, 1, max_wait_s=300))
    requests = [
        asyncio.ensure_future(stage.request(ACME, entitled, str(n), size=200)) for n in range(9)
    ]
    await asyncio.sleep(0.1)
    assert stage.room.bytes == 400  # as much as is still free
    await asyncio.gather(*requests)


@virtual
async def test_accounts_do_not_delay_each_other() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(10, 1, max_wait_s=300))
    flood = [asyncio.ensure_future(stage.request(ACME, entitled, "flood")) for _ in range(500)]
    other = key("other")
    requests = [asyncio.ensure_future(stage.request(other, entitled, f"o{n}")) for n in range(10)]
    await asyncio.gather(*requests)
    assert asyncio.get_running_loop().time() == pytest.approx(0.9, abs=0.1)
    for request in flood:
        request.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert stage.room.waiting == 0


@virtual
async def test_limits_per_key_have_their_own_queues() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60, per="key"))
    first = [asyncio.ensure_future(stage.request(ACME, entitled, f"a{n}")) for n in range(4)]
    await asyncio.sleep(0.1)
    second = key("acme", "k2")
    decision, end = await stage.request(second, entitled, "b0")
    assert (decision.allowed, end) == (True, "")
    await asyncio.gather(*first)


@virtual
async def test_an_unavailable_store_ends_the_wait() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    await stage.request(ACME, entitled, "first")
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(3)]
    await asyncio.sleep(0.1)

    async def unavailable(*_args: Any, **_options: Any) -> Any:
        raise StoreUnavailable("no answer")

    stage.store.reserve = unavailable  # type: ignore[method-assign]
    results = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert stage.room.waiting == 0
    assert stage.room._queues == {}


@virtual
async def test_an_exception_during_a_try_passes_through() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=60))
    await stage.request(ACME, entitled, "first")
    request = asyncio.ensure_future(stage.request(ACME, entitled, "second"))
    await asyncio.sleep(0.1)

    async def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError("a fault")

    stage.store.reserve = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a fault"):
        await request
    assert (stage.room.waiting, stage.room.ended["refused"]) == (0, 1)


@virtual
async def test_many_that_fit_are_allowed_together() -> None:
    """A full bucket allows many requests at once, not one by one."""
    stage, entitled = WaitingStage(), entitlement(rate(1000, 1000, max_wait_s=60))
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(5000)]
    results = await asyncio.gather(*requests)
    assert all(decision.allowed for decision, _ in results)
    assert asyncio.get_running_loop().time() == pytest.approx(4.0, abs=0.1)
    assert [name for _, name in stage.served] == [str(n) for n in range(5000)]


def test_without_waiting_requests_the_store_decides() -> None:
    room = WaitingRoom(max_requests=10, max_bytes=10)
    assert room.refusal_behind_queue(ACME, entitlement(rate(1, 1, max_wait_s=1)).claims) is None


@virtual
async def test_a_client_that_leaves_shortens_the_wait_of_later_requests() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 1, max_wait_s=6))
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(7)]
    await asyncio.sleep(0.01)
    assert stage.room.waiting == 6  # as many as fit within the longest wait
    for request in requests[2:]:
        request.cancel()
    await asyncio.sleep(0)
    decision, end = await stage.request(ACME, entitled, "next")
    assert (decision.allowed, end) == (True, "served")
    assert stage.served[-1] == (pytest.approx(2.0, abs=0.01), "next")


@virtual
async def test_units_of_tries_without_an_answer_are_not_free() -> None:
    stage, entitled = WaitingStage(), entitlement(rate(1, 4, max_wait_s=60))
    reserve, answers = stage.store.reserve, asyncio.Event()
    answers.set()

    async def slow_answer(*args: Any, **options: Any) -> Any:
        answer = await reserve(*args, **options)
        await answers.wait()
        return answer

    stage.store.reserve = slow_answer  # type: ignore[method-assign]
    for number in range(4):
        await stage.request(ACME, entitled, f"first-{number}")
    requests = [asyncio.ensure_future(stage.request(ACME, entitled, str(n))) for n in range(8)]
    await asyncio.sleep(0.5)
    answers.clear()
    await asyncio.sleep(0.6)  # the first of them tries, and has no answer yet
    tries = stage.tries
    two_are_left = Answer(True, stage.now_us(), (2 * MICRO,), (0,))
    stage.room.update(ACME, entitled.claims, two_are_left)
    await asyncio.sleep(0)
    assert stage.tries - tries == 1
    answers.set()
    await asyncio.gather(*requests)


@virtual
async def test_the_shorter_of_two_patiences_ends_first() -> None:
    stage, entitled = WaitingStage(), entitlement(slots(1, max_wait_s=60))
    await stage.request(ACME, entitled, "first")
    patient = asyncio.ensure_future(stage.request(ACME, entitled, "patient"))
    await asyncio.sleep(0.01)
    hasty = stage.request(ACME, entitled, "hasty", patience_us=2 * MICRO)
    _, end = await hasty
    assert end == "timed-out"
    assert asyncio.get_running_loop().time() == pytest.approx(2.06, abs=0.01)
    stage.end(ACME, entitled, "first")
    await patient
