"""Counters in a real Valkey, events in a real spool: equal at rest, or the difference explained."""

import struct

from sidecar.core.model import Pack
from sidecar.gate import Admission
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from sidecar.stores.inspector import Inspector
from tests.support.reconcile_stage import House, counters, plans_text, told, why

STATE = keys.state("qs", "acme")


async def test_I5_counters_are_the_sum_of_the_events(house: House) -> None:
    await house.call("GET /", 3)
    await house.call("GET /dear", 2, key="k2")
    await house.call("POST /chat", 2, tokens=40)
    await house.call("POST /chat", tokens=300)
    await house.call("POST /chat")  # its response told nothing: the estimate stands
    await house.call("GET /dear", 4, status=503)  # refunded
    await house.call("GET /", 7, account="fred")
    looks = house.reconcile()
    assert why(looks) == {}
    assert counters(looks) == {
        "monthly": 17, "per-key/k1": 7, "per-key/k2": 10, "tokens": 480, "fred monthly": 7
    }  # fmt: skip


async def test_I5_holds_beyond_a_quota_with_critical_calls_and_refused_ones(house: House) -> None:
    assert await house.call("GET /", 60) == 50
    assert await house.call("POST /login", 5) == 5
    assert await house.call("POST /chat", 3, tokens=900) == 0
    looks = house.reconcile()
    assert why(looks) == {}
    assert counters(looks)["monthly"] == 55


async def test_I5_holds_with_grants_which_pay_a_part(house: House) -> None:
    await house.call("GET /", 48)
    buy(house)
    await house.call("GET /dear", 3)
    looks = house.reconcile()
    assert why(looks) == {"monthly": {"paid_by_grants": -13}}
    assert told(looks)[0].endswith("counter 50, events 63: -13 paid by grants")
    assert not looks["acme"].left


def buy(house: House) -> None:
    with Admin(house.url, "qs") as admin:
        account = house.gate.book.accounts["acme"]
        admin.grant(account, Pack("boost", "monthly", "requests", 100, "month"), "order-1")


async def test_a_grant_explains_nothing_while_the_plans_own_units_last(house: House) -> None:
    await house.call("GET /", 48)
    buy(house)
    await house.call("GET /dear", 2)
    set_used(house, "q/monthly", 40)
    assert why(house.reconcile()) == {"monthly": {"lost": -18}}


def set_used(house: House, field: str, used: int) -> None:
    packed = house.client.hget(STATE, field)
    assert isinstance(packed, bytes)
    house.client.hset(STATE, field, struct.pack("<d", used) + packed[8:])  # type: ignore[arg-type]


async def test_calls_in_flight_are_told_by_their_reservations(house: House) -> None:
    await house.call("GET /", 2)
    admissions = [await house.admit("GET /dear") for _ in range(2)]
    looks = house.reconcile()
    assert why(looks) == {"monthly": {"in_flight": 10}, "per-key/k1": {"in_flight": 10}}
    assert "+10 reserved by 2 calls that are not over" in told(looks)[0]
    for one in admissions:
        assert isinstance(one, Admission)
        house.over(one)
    await house.rest()
    assert why(house.reconcile()) == {}


async def test_settlements_that_redis_has_not_been_told_of_are_told_apart(house: House) -> None:
    chat, dear = await house.admit("POST /chat"), await house.admit("GET /dear")
    assert isinstance(chat, Admission)
    assert isinstance(dear, Admission)
    await house.wire.stop()
    house.over(chat, tokens=30)
    house.over(dear, status=500)
    await house.spool.flush()
    assert why(house.reconcile()) == {
        "monthly": {"refund_due": 5}, "per-key/k1": {"refund_due": 5}, "tokens": {"settling": 70}
    }  # fmt: skip


async def test_a_counter_that_lost_data_is_a_difference(house: House) -> None:
    await house.call("GET /", 9)
    house.client.flushdb()
    await house.call("GET /", 2)
    looks = house.reconcile()
    assert why(looks) == {"monthly": {"lost": -9}, "per-key/k1": {"lost": -9}}
    assert looks["acme"].left
    assert "counter 2, events 11: -9 LOST: counted and gone again" in told(looks)[0]


async def test_an_account_that_redis_forgot_altogether_is_a_difference(house: House) -> None:
    await house.call("GET /", 3, account="fred")
    house.client.flushdb()
    assert why(house.reconcile()) == {"fred monthly": {"lost": -3}}


async def test_events_that_were_not_given_are_a_difference(house: House) -> None:
    await house.call("GET /", 9)
    segment = next(house.spool_at.glob("*.jsonl"))
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[4:]))
    looks = house.reconcile()
    assert why(looks) == {
        "monthly": {"events_missing": 4}, "per-key/k1": {"events_missing": 4}
    }  # fmt: skip
    assert "counter 9, events 5: +4 WITHOUT EVENT" in told(looks)[0]


async def test_copies_of_an_event_count_once_wherever_they_are(house: House) -> None:
    await house.call("GET /", 5)
    (segment,) = house.spool_at.glob("*.jsonl")
    shipped = house.spool_at.parent / "usage.jsonl"
    shipped.write_bytes(segment.read_bytes() * 3)
    assert why(house.reconcile(house.spool_at, shipped)) == {}
    assert why(house.reconcile(shipped)) == {}


async def test_one_account_can_be_looked_at_alone(house: House) -> None:
    await house.call("GET /", 2)
    await house.call("GET /", 2, account="fred")
    house.client.flushdb()
    assert why(house.reconcile(only="fred")) == {"fred monthly": {"lost": -2}}


async def test_a_field_that_makes_no_sense_is_named_and_hides_no_other(house: House) -> None:
    await house.call("GET /", 2)
    house.client.hset(STATE, "q/monthly", b"garbage")
    looks = house.reconcile()
    assert list(why(looks)) == ["monthly"]
    assert looks["acme"].left
    assert "UNREADABLE: q/monthly in the account's state" in told(looks)[0]


# Another version of the plan file

UNLIMITED = ("- {id: monthly, meter: requests, quota: 50/month, at: {100%: reject}}", "")


async def test_a_limit_that_a_plan_has_no_more_is_no_difference(house: House) -> None:
    await house.call("GET /", 4)
    gone = plans_text(("      " + UNLIMITED[0] + "\n", ""))
    house.swap(gone)
    await house.call("GET /", 2)
    looks = house.reconcile()
    assert why(looks) == {"monthly": {"plan_changed": 4}}
    assert not looks["acme"].left


async def test_with_the_former_plan_file_nothing_is_guessed(house: House) -> None:
    await house.call("GET /", 4)
    former = house.plans.with_name("former.yaml")
    former.write_text(house.plans.read_text())
    house.swap(plans_text(("      " + UNLIMITED[0] + "\n", "")))
    await house.call("GET /", 2)
    assert why(house.reconcile(former=[former])) == {}
    set_used(house, "q/monthly", 7)
    assert why(house.reconcile(former=[former])) == {"monthly": {"events_missing": 3}}


async def test_a_limit_younger_than_its_period_is_told_with_a_doubt(house: House) -> None:
    house.swap(plans_text(("      " + UNLIMITED[0] + "\n", "")))
    await house.call("GET /", 4)
    house.plans.with_name("former.yaml").write_text(house.plans.read_text())
    house.swap(plans_text())
    await house.call("GET /", 2)
    (lost,) = (one for one in house.reconcile()["acme"].verdicts if one.whys)
    assert (lost.row.limit.id, lost.difference, lost.guessed) == ("monthly", -4, 4)
    assert why(house.reconcile(former=[house.plans.with_name("former.yaml")])) == {}


async def test_a_counter_without_any_limit_is_left_out_by_name(house: House) -> None:
    await house.call("GET /", 4)
    house.swap(plans_text(("per-key", "by-key")))
    with Inspector(house.url, "qs") as inspector:
        looker = house.looker(inspector, [])
        looker.begin()
    assert looker.gone == [("acme", "q/per-key/k1")]
