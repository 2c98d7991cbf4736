"""Counters come back from the events: all that was lost, nothing twice, beside running calls."""

import asyncio

from sidecar.core.model import Pack
from sidecar.gate import Admission
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from tests.support.reconcile_stage import House, counters, told, why

STATE = keys.state("qs", "acme")
BEFORE_THE_LOSS = 1_000  # calls; far more than can be in flight or on their way to the disk


async def test_I5_a_flushed_redis_gets_its_counters_back(house: House) -> None:
    await house.call("GET /", 3)
    await house.call("GET /dear", 2, key="k2")
    await house.call("POST /chat", 2, tokens=40)
    await house.call("GET /dear", status=503)
    await house.call("GET /", 4, account="fred")
    before = counters(house.reconcile())
    house.client.flushdb()
    done = house.rebuild()
    assert len(done.raised) == 5
    looks = house.reconcile()
    assert (why(looks), counters(looks)) == ({}, before)
    assert house.client.pttl(STATE) > 0


async def test_nothing_is_done_unless_it_is_wanted(house: House) -> None:
    await house.call("GET /", 3)
    house.client.flushdb()
    done = house.rebuild(apply=False)
    assert [(one.verdict.row.field, one.units) for one in done.raised] == [
        ("q/monthly", 3), ("q/per-key/k1", 3)
    ]  # fmt: skip
    assert house.client.dbsize() == 0


async def test_doing_it_again_changes_nothing(house: House) -> None:
    await house.call("GET /", 3)
    house.client.flushdb()
    house.rebuild()
    before = house.client.hgetall(STATE)
    assert house.rebuild().raised == []
    assert house.client.hgetall(STATE) == before


async def test_I1_what_was_counted_since_the_loss_is_counted_once(house: House) -> None:
    await house.call("GET /", 40)
    house.client.flushdb()
    await house.call("GET /", 5)
    open_one = await house.admit("GET /dear")
    house.rebuild()
    assert why(house.reconcile()) == {"monthly": {"in_flight": 5}, "per-key/k1": {"in_flight": 5}}
    assert await house.call("GET /", 10) == 0, "50 are used"
    assert isinstance(open_one, Admission)
    house.over(open_one)
    await house.rest()
    assert why(house.reconcile()) == {}


async def test_a_call_that_was_open_when_data_was_lost_is_added_when_it_is_over(
    house: House,
) -> None:
    lost = await house.admit("GET /dear")
    house.client.flushdb()
    assert house.rebuild().raised == []
    assert isinstance(lost, Admission)
    house.over(lost)
    await house.rest()
    house.rebuild()
    looks = house.reconcile()
    assert (why(looks), counters(looks)) == ({}, {"monthly": 5, "per-key/k1": 5})


async def test_grants_that_are_given_again_pay_again(house: House) -> None:
    account = house.gate.book.accounts["acme"]
    pack = Pack("boost", "monthly", "requests", 100, "month")
    with Admin(house.url, "qs") as admin:
        admin.grant(account, pack, "order-1")
        assert await house.call("GET /dear", 14) == 14
        house.client.flushdb()
        admin.grant(account, pack, "order-1")
    house.rebuild()
    looks = house.reconcile()
    assert why(looks) == {"monthly": {"paid_by_grants": -20}}
    assert looks["acme"].held.state.grants[0].used == 20
    assert counters(looks)["monthly"] == 50


async def test_a_counter_is_lowered_only_if_that_is_wanted(house: House) -> None:
    await house.call("GET /", 9)
    segment = next(house.spool_at.glob("*.jsonl"))
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[4:]))
    assert house.rebuild().raised == []
    assert counters(house.reconcile())["monthly"] == 9
    assert [one.units for one in house.rebuild(lower=True, apply=False).raised] == [-4, -4]
    house.rebuild(lower=True)
    looks = house.reconcile()
    assert (why(looks), counters(looks)["monthly"]) == ({}, 5)


async def test_a_call_in_flight_is_never_taken_back(house: House) -> None:
    await house.call("GET /", 2)
    await house.admit("GET /dear")
    assert house.rebuild(lower=True).raised == []
    assert why(house.reconcile()) == {"monthly": {"in_flight": 5}, "per-key/k1": {"in_flight": 5}}


async def test_only_the_accounts_that_are_meant_are_changed(house: House) -> None:
    await house.call("GET /", 2)
    await house.call("GET /", 2, account="fred")
    house.client.flushdb()
    house.rebuild(only="fred")
    assert why(house.reconcile()) == {"monthly": {"lost": -2}, "per-key/k1": {"lost": -2}}


async def test_an_account_whose_calendar_nobody_knows_is_left_alone(house: House) -> None:
    await house.call("GET /", 2)
    house.client.flushdb()
    text = house.plans.read_text()
    house.plans.write_text(text.replace("id: acme, plan", "id: somebody, plan"))
    done = house.rebuild()
    assert (done.raised, done.unknown) == ([], ["acme"])
    assert house.client.dbsize() == 0
    assert told(house.reconcile())


async def test_I5_redis_is_flushed_and_rebuilt_under_load(house: House) -> None:
    """Callers go on all the time. What is restored meanwhile is never too much, and what was in
    flight then is restored when they have stopped."""
    stop, flushed = asyncio.Event(), asyncio.Event()
    made = 0

    async def caller(number: int) -> None:
        nonlocal made
        while not stop.is_set():
            result = await house.admit("GET /", account="fred", key=f"k{1 + number % 2}")
            assert isinstance(result, Admission)
            await asyncio.sleep(0)  # others have their turn while it is under way
            house.over(result)
            made += 1
            if made == BEFORE_THE_LOSS:
                await house.spool.flush()
                house.client.flushdb()
                flushed.set()

    callers = [asyncio.create_task(caller(number)) for number in range(8)]
    await flushed.wait()
    restored = await asyncio.to_thread(house.rebuild)
    during = made
    stop.set()
    await asyncio.gather(*callers)
    await house.rest()
    assert during > BEFORE_THE_LOSS
    assert sum(one.units for one in restored.raised) > 0
    (verdict,) = house.reconcile()["fred"].verdicts
    assert -BEFORE_THE_LOSS < verdict.difference <= 0
    house.rebuild()
    looks = house.reconcile()
    assert (why(looks), counters(looks)) == ({}, {"fred monthly": made})
