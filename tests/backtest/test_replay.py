"""What a backtest tells of an account: a film of calls, and what is made of them."""

from dataclasses import replace

from sidecar.backtest.replay import Replay
from sidecar.backtest.report import AccountReport, Quota, total
from sidecar.backtest.run import Calendars, replay
from sidecar.core.events.read import RecordedRequest
from sidecar.core.json_path import JsonPath
from sidecar.core.model import (
    MICRO,
    Account,
    ConcurrencyLimit,
    Limit,
    PlanBook,
    QuotaLimit,
    RateLimit,
)
from sidecar.core.settlement import OutcomeReason
from tests.support.replays import ACME, HOUR, START, a_book, a_call, a_plan, a_route, an_entitlement

REST = a_route("rest", {"requests": 1})
HOURLY = QuotaLimit("hourly", "requests", 3, "hour", 3)
RATE = RateLimit("per-second", "requests", 1, MICRO, 1, (1, 1))


def a_book_of(*limits: Limit, **changes: object) -> PlanBook:
    return a_book([a_plan(limits, **changes)], [REST])


def report_of(book: PlanBook, *calls: RecordedRequest, follow: bool = True) -> AccountReport:
    one = Replay(book, ACME, Calendars().window, follow=follow)
    for call in calls:
        one.call(call)
    return one.done()


def every_second(count: int, start_us: int = START) -> list[RecordedRequest]:
    return [a_call(number, start_us + number * MICRO) for number in range(count)]


def test_a_quota_that_runs_out_tells_when_and_refuses_until_its_period_ends() -> None:
    report = report_of(a_book_of(HOURLY), *every_second(5), a_call(9, START + HOUR))
    assert report.quotas == {"hourly": Quota(3, 3, START + 2 * MICRO, None)}
    refused = report.refused["hourly", "quota"]
    assert (refused.calls, refused.longest_us) == (2, HOUR - 3 * MICRO)
    assert refused.waits == {"later": 2}
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (6, 4)


def test_a_quota_that_never_runs_out_tells_the_most_that_was_used() -> None:
    report = report_of(a_book_of(HOURLY), *every_second(2), a_call(9, START + HOUR))
    assert report.quotas == {"hourly": Quota(3, 2, None, None)}
    assert not report.changed


def test_a_quota_too_small_for_the_next_call_has_run_out() -> None:
    dear = a_route("rest", {"requests": 2})
    report = report_of(a_book([a_plan([HOURLY])], [dear]), *every_second(2))
    assert report.quotas["hourly"].ran_out_us == START + MICRO


def test_a_call_that_never_fits_is_told_apart() -> None:
    dear = a_route("rest", {"requests": 4})
    report = report_of(a_book([a_plan([HOURLY])], [dear]), a_call())
    assert report.refused["hourly", "quota"].waits == {"never": 1}
    assert report.quotas["hourly"].ran_out_us is None


def test_of_quotas_per_key_the_first_to_run_out_is_told() -> None:
    per_key = replace(HOURLY, per="key")
    calls = every_second(3)
    calls += [a_call(10 + n, START + (10 + n) * MICRO, key="k2") for n in range(2)]
    assert report_of(a_book_of(per_key), *calls).quotas == {
        "hourly": Quota(3, 3, START + 2 * MICRO, "k1")
    }


def test_refusals_of_a_rate_tell_how_long_each_would_have_waited() -> None:
    gaps = [0, 0, 500_000]
    calls = [a_call(number, START + gap) for number, gap in enumerate(gaps)]
    refused = report_of(a_book_of(RATE), *calls).refused["per-second", "rate"]
    assert (refused.calls, refused.longest_us, refused.waits) == (2, MICRO, {"1s": 2})


def test_a_slot_is_held_for_as_long_as_the_call_took() -> None:
    book = a_book_of(ConcurrencyLimit("in-flight", 1))
    calls = [a_call(1, START, latency_ms=7_000), a_call(2, START + MICRO, latency_ms=1),
             a_call(3, START + 7 * MICRO)]  # fmt: skip
    refused = report_of(book, *calls).refused["in-flight", "concurrency"]
    assert (refused.calls, refused.longest_us, refused.waits) == (1, 6 * MICRO, {"60s": 1})


def test_what_the_new_plan_refunds_costs_nothing_once_the_call_is_over() -> None:
    book = a_book_of(HOURLY, refunds=frozenset({"upstream_5xx"}))
    failed = [a_call(n, START + n * MICRO, status=500, latency_ms=100) for n in range(4)]
    report = report_of(book, *failed)
    assert report.refused == {}
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (4, 0)


def test_a_refund_that_comes_in_the_next_period_is_not_taken_from_that_one() -> None:
    book = a_book_of(HOURLY, refunds=frozenset({"upstream_timeout"}))
    slow = a_call(1, START + HOUR - MICRO, latency_ms=3_000, status=504,
                  reason=OutcomeReason.UPSTREAM_TIMEOUT)  # fmt: skip
    report = report_of(book, slow, *every_second(4, START + HOUR + MICRO))
    assert report.refused_calls == 1


def test_a_call_that_was_not_billable_counts_for_nothing_as_it_was_recorded() -> None:
    report = report_of(a_book_of(HOURLY), a_call(billable=False, overage=(("requests", 1),)))
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (0, 1)
    assert report.overage == {}


def test_units_carried_over_are_lost_on_a_plan_without_rollover() -> None:
    saving = replace(HOURLY, rollover=3)
    book = a_book([a_plan([saving], "saving"), a_plan([HOURLY], "pro")], [REST])
    calls = [a_call(1, START, plan="saving"), a_call(2, START + HOUR, plan="saving")]
    calls += every_second(3, START + HOUR + MICRO)
    assert report_of(book, *calls).refused_calls == 1
    on_saving = [call._replace(plan="saving") for call in calls]
    assert report_of(book, *on_saving).refused_calls == 0


def test_overage_is_told_beside_what_was_recorded() -> None:
    lenient = replace(HOURLY, cap=10)
    calls = [call._replace(overage=(("requests", 1),)) for call in every_second(5)]
    report = report_of(a_book_of(lenient), *calls)
    apart = report.overage["requests"]
    assert (apart.recorded, apart.replayed) == (5, 2)
    assert report.changed


def test_a_cost_that_is_known_late_is_the_recorded_one_and_another_that_of_the_file() -> None:
    route = a_route("chat", {"requests": 2, "tokens": 1_000})
    plan = a_plan([QuotaLimit("tokens", "tokens", 100, "hour", 100)])
    entitlement = replace(
        an_entitlement(plan, route), settles=(("tokens", JsonPath.parse("usage.total")),)
    )
    book = a_book([plan], [route], entitlements={("pro", "chat"): entitlement})
    usage = (("requests", 1), ("tokens", 40))
    calls = [a_call(n, START, route="chat", usage=usage) for n in range(3)]
    report = report_of(book, *calls)
    assert report.refused["tokens", "quota"].calls == 1
    assert report.units["tokens"].replayed == 80
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (3, 4)


def test_what_the_new_file_does_not_have_is_put_aside_by_name() -> None:
    lacking = a_route("ai", {"requests": 1})
    plan = a_plan([HOURLY])
    book = a_book([plan], [REST, lacking])
    missing = replace(book.entitlements["pro", "ai"], missing=("ai",))
    book = replace(book, entitlements=book.entitlements | {("pro", "ai"): missing})
    report = report_of(
        book, a_call(1, plan="legacy"), a_call(2, route="gone"), a_call(3, route="ai"), a_call(4)
    )
    assert report.aside == {("plan", "legacy"): 1, ("route", "gone"): 1, ("feature", "ai"): 1}
    assert (report.calls, report.refused_calls, report.units["requests"].replayed) == (4, 0, 1)


def test_a_limit_in_shadow_is_told_and_refuses_nothing() -> None:
    book = a_book_of(replace(HOURLY, shadow=True), replace(RATE, shadow=True))
    report = report_of(book, *every_second(5), a_call(9, START + 4 * MICRO))
    assert report.shadowed == {"hourly": 3, "per-second": 1}
    assert report.refused == {}


def test_an_account_of_the_new_file_is_on_the_plan_that_it_has_there() -> None:
    plans = [a_plan([HOURLY]), a_plan([replace(HOURLY, units=1, cap=1)], "free")]
    book = a_book(plans, [REST], accounts={"acme": Account("acme", "free")})
    other = [call._replace(account="other") for call in every_second(3)]
    reports = {one.account: one for one in replay([*every_second(3), *other], book)}
    assert {name: one.refused_calls for name, one in reports.items()} == {"acme": 2, "other": 0}


def test_periods_are_those_of_the_accounts_time_zone() -> None:
    daily = replace(HOURLY, period="day")
    midnight = 1_789_948_800 * MICRO  # in UTC; 20:00 the day before in New York
    book = a_book([a_plan([daily])], [REST])
    calls = [a_call(n, midnight + (n - 2) * MICRO) for n in range(4)]
    assert sum(one.refused_calls for one in replay(calls, book)) == 0
    there = replace(book, accounts={"acme": Account("acme", "pro", "America/New_York")})
    assert sum(one.refused_calls for one in replay(calls, there)) == 1


def test_totals_are_the_sum_of_all_accounts() -> None:
    calls = every_second(5)
    reports = [report_of(a_book_of(HOURLY), *calls[:start]) for start in (4, 5)]
    whole = total(reports)
    assert (whole.calls, whole.refused_calls, whole.plans) == (9, 3, {"pro": 9})
    assert whole.refused["hourly", "quota"].waits == {"later": 3}
    assert (whole.units["requests"].recorded, whole.units["requests"].replayed) == (9, 6)
    assert (whole.first_us, whole.last_us) == (START, START + 4 * MICRO)


def test_the_json_of_a_report_holds_integers_and_instants() -> None:
    told = report_of(a_book_of(HOURLY), *every_second(5)).as_json()
    assert told["refusals"] == [
        {
            "limit": "hourly", "reason": "quota", "calls": 2, "longest_wait_ms": 3_597_000,
            "would_have_fitted_within": {"later": 2},
        }
    ]  # fmt: skip
    assert told["quotas"] == [
        {"limit": "hourly", "key": None, "units": 3, "most_used": 3,
         "runs_out": "2026-09-21T14:00:02Z"}
    ]  # fmt: skip
    assert told["units"] == {"requests": {"recorded": 5, "replayed": 3, "difference": -2}}


def test_calls_that_may_wait_are_held_one_behind_the_other() -> None:
    patient = replace(RATE, max_wait_us=3 * MICRO)
    calls = [a_call(number, START) for number in range(6)]
    report = report_of(a_book_of(patient), *calls)
    held = report.held["per-second"]
    assert (held.calls, held.longest_us, held.all_us) == (3, 3 * MICRO, 6 * MICRO)
    assert report.refused["per-second", "rate"].calls == 2  # the fifth and the sixth do not fit
    assert report.units["requests"].replayed == 4
    assert report.changed


def test_a_held_call_takes_its_slot_later() -> None:
    slots = ConcurrencyLimit("in-flight", 1, max_wait_us=10 * MICRO)
    calls = [a_call(number, START, latency_ms=4000) for number in range(4)]
    report = report_of(a_book_of(slots), *calls)
    held = report.held["in-flight"]
    assert (held.calls, held.longest_us) == (2, 8 * MICRO)
    assert report.refused["in-flight", "concurrency"].longest_us == 12 * MICRO


def test_nobody_waits_for_a_quota() -> None:
    patient = replace(RATE, max_wait_us=3 * MICRO)
    spent = QuotaLimit("hourly", "requests", 1, "hour", 1)
    report = report_of(a_book_of(patient, spent), a_call(1, START), a_call(2, START))
    assert (report.held, report.refused_calls) == ({}, 1)


def test_waits_of_all_accounts_are_added_up() -> None:
    patient = replace(RATE, max_wait_us=3 * MICRO)
    reports = [report_of(a_book_of(patient), a_call(1, START), a_call(2, START)) for _ in range(2)]
    whole = total(reports).held["per-second"]
    assert (whole.calls, whole.longest_us, whole.all_us) == (2, MICRO, 2 * MICRO)
