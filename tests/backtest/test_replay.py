"""The report of a backtest for one account, from recorded requests to totals and JSON."""

from dataclasses import replace

from sidecar.backtest.replay import Replay
from sidecar.backtest.report import AccountReport, QuotaResult, total
from sidecar.backtest.run import PeriodCache, replay
from sidecar.core.events.read import RecordedRequest
from sidecar.core.json_path import JsonPath
from sidecar.core.kinds import MICRO, ConcurrencyLimit, Limit, QuotaLimit, RateLimit
from sidecar.core.model import Account, PlanBook
from sidecar.core.settlement import OutcomeReason
from tests.support.replays import (
    ACME,
    HOUR,
    START,
    a_book,
    a_plan,
    a_request,
    a_route,
    an_entitlement,
)

REST = a_route("rest", {"requests": 1})
HOURLY = QuotaLimit("hourly", "requests", 3, "hour", 3)
RATE = RateLimit("per-second", "requests", 1, MICRO, 1, (1, 1))


def a_book_of(*limits: Limit, **changes: object) -> PlanBook:
    return a_book([a_plan(limits, **changes)], [REST])


def report_of(book: PlanBook, *requests: RecordedRequest, follow: bool = True) -> AccountReport:
    replayed = Replay(book, ACME, PeriodCache().window, follow=follow)
    for request in requests:
        replayed.add(request)
    return replayed.finish()


def every_second(count: int, start_us: int = START) -> list[RecordedRequest]:
    return [a_request(number, start_us + number * MICRO) for number in range(count)]


def test_a_used_up_quota_reports_the_instant_and_refuses_until_its_period_ends() -> None:
    report = report_of(a_book_of(HOURLY), *every_second(5), a_request(9, START + HOUR))
    assert report.quotas == {"hourly": QuotaResult(3, 3, START + 2 * MICRO, None)}
    refused = report.refused["hourly", "quota"]
    assert (refused.requests, refused.longest_us) == (2, HOUR - 3 * MICRO)
    assert refused.waits == {"later": 2}
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (6, 4)


def test_a_quota_that_is_never_used_up_reports_its_peak() -> None:
    report = report_of(a_book_of(HOURLY), *every_second(2), a_request(9, START + HOUR))
    assert report.quotas == {"hourly": QuotaResult(3, 2, None, None)}
    assert not report.changed


def test_a_quota_too_small_for_the_next_request_is_used_up() -> None:
    expensive = a_route("rest", {"requests": 2})
    report = report_of(a_book([a_plan([HOURLY])], [expensive]), *every_second(2))
    assert report.quotas["hourly"].ran_out_us == START + MICRO


def test_a_request_that_never_fits_is_counted_as_never() -> None:
    expensive = a_route("rest", {"requests": 4})
    report = report_of(a_book([a_plan([HOURLY])], [expensive]), a_request())
    assert report.refused["hourly", "quota"].waits == {"never": 1}
    assert report.quotas["hourly"].ran_out_us is None


def test_a_quota_per_key_reports_the_key_that_used_it_up_first() -> None:
    per_key = replace(HOURLY, per="key")
    requests = every_second(3)
    requests += [a_request(10 + n, START + (10 + n) * MICRO, key="k2") for n in range(2)]
    assert report_of(a_book_of(per_key), *requests).quotas == {
        "hourly": QuotaResult(3, 3, START + 2 * MICRO, "k1")
    }


def test_refusals_of_a_rate_are_counted_by_the_wait_until_they_fit() -> None:
    gaps = [0, 0, 500_000]
    requests = [a_request(number, START + gap) for number, gap in enumerate(gaps)]
    refused = report_of(a_book_of(RATE), *requests).refused["per-second", "rate"]
    assert (refused.requests, refused.longest_us, refused.waits) == (2, MICRO, {"1s": 2})


def test_a_request_keeps_its_slot_for_its_recorded_latency() -> None:
    book = a_book_of(ConcurrencyLimit("in-flight", 1))
    requests = [a_request(1, START, latency_ms=7_000), a_request(2, START + MICRO, latency_ms=1),
             a_request(3, START + 7 * MICRO)]  # fmt: skip
    refused = report_of(book, *requests).refused["in-flight", "concurrency"]
    assert (refused.requests, refused.longest_us, refused.waits) == (1, 6 * MICRO, {"60s": 1})


def test_a_refunded_request_costs_nothing_after_it_ends() -> None:
    book = a_book_of(HOURLY, refunds=frozenset({"upstream_5xx"}))
    failed = [a_request(n, START + n * MICRO, status=500, latency_ms=100) for n in range(4)]
    report = report_of(book, *failed)
    assert report.refused == {}
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (4, 0)


def test_a_refund_in_the_next_period_does_not_lower_the_new_counter() -> None:
    book = a_book_of(HOURLY, refunds=frozenset({"upstream_timeout"}))
    slow = a_request(1, START + HOUR - MICRO, latency_ms=3_000, status=504,
                  reason=OutcomeReason.UPSTREAM_TIMEOUT)  # fmt: skip
    report = report_of(book, slow, *every_second(4, START + HOUR + MICRO))
    assert report.refused_requests == 1


def test_a_request_that_was_not_billable_has_no_recorded_units() -> None:
    report = report_of(a_book_of(HOURLY), a_request(billable=False, overage=(("requests", 1),)))
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (0, 1)
    assert report.overage == {}


def test_a_plan_without_rollover_loses_carried_units() -> None:
    saving = replace(HOURLY, rollover=3)
    book = a_book([a_plan([saving], "saving"), a_plan([HOURLY], "pro")], [REST])
    requests = [a_request(1, START, plan="saving"), a_request(2, START + HOUR, plan="saving")]
    requests += every_second(3, START + HOUR + MICRO)
    assert report_of(book, *requests).refused_requests == 1
    on_saving = [request._replace(plan="saving") for request in requests]
    assert report_of(book, *on_saving).refused_requests == 0


def test_recorded_and_replayed_overage_are_both_reported() -> None:
    lenient = replace(HOURLY, cap=10)
    requests = [request._replace(overage=(("requests", 1),)) for request in every_second(5)]
    report = report_of(a_book_of(lenient), *requests)
    change = report.overage["requests"]
    assert (change.recorded, change.replayed) == (5, 2)
    assert report.changed


def test_a_settled_cost_is_the_recorded_one_and_any_other_comes_from_the_plan_file() -> None:
    route = a_route("chat", {"requests": 2, "tokens": 1_000})
    plan = a_plan([QuotaLimit("tokens", "tokens", 100, "hour", 100)])
    entitlement = replace(
        an_entitlement(plan, route), settles=(("tokens", JsonPath.parse("usage.total")),)
    )
    book = a_book([plan], [route], entitlements={("pro", "chat"): entitlement})
    usage = (("requests", 1), ("tokens", 40))
    requests = [a_request(n, START, route="chat", usage=usage) for n in range(3)]
    report = report_of(book, *requests)
    assert report.refused["tokens", "quota"].requests == 1
    assert report.units["tokens"].replayed == 80
    assert (report.units["requests"].recorded, report.units["requests"].replayed) == (3, 4)


def test_requests_with_an_unknown_plan_route_or_feature_are_skipped_by_name() -> None:
    lacking = a_route("ai", {"requests": 1})
    plan = a_plan([HOURLY])
    book = a_book([plan], [REST, lacking])
    missing = replace(book.entitlements["pro", "ai"], missing=("ai",))
    book = replace(book, entitlements={**book.entitlements, ("pro", "ai"): missing})
    report = report_of(
        book,
        a_request(1, plan="legacy"),
        a_request(2, route="removed"),
        a_request(3, route="ai"),
        a_request(4),
    )
    assert report.skipped == {("plan", "legacy"): 1, ("route", "removed"): 1, ("feature", "ai"): 1}
    assert (report.requests, report.refused_requests, report.units["requests"].replayed) == (
        4,
        0,
        1,
    )


def test_a_limit_in_shadow_is_reported_and_refuses_nothing() -> None:
    book = a_book_of(replace(HOURLY, shadow=True), replace(RATE, shadow=True))
    report = report_of(book, *every_second(5), a_request(9, START + 4 * MICRO))
    assert report.shadowed == {"hourly": 3, "per-second": 1}
    assert report.refused == {}


def test_an_account_in_the_new_file_has_its_plan_there() -> None:
    plans = [a_plan([HOURLY]), a_plan([replace(HOURLY, units=1, cap=1)], "free")]
    book = a_book(plans, [REST], accounts={"acme": Account("acme", "free")})
    other = [request._replace(account="other") for request in every_second(3)]
    reports = {one.account: one for one in replay([*every_second(3), *other], book)}
    assert {name: one.refused_requests for name, one in reports.items()} == {"acme": 2, "other": 0}


def test_periods_follow_the_time_zone_of_the_account() -> None:
    daily = replace(HOURLY, period="day")
    midnight = 1_789_948_800 * MICRO  # in UTC; 20:00 on the day before in New York
    book = a_book([a_plan([daily])], [REST])
    requests = [a_request(n, midnight + (n - 2) * MICRO) for n in range(4)]
    assert sum(one.refused_requests for one in replay(requests, book)) == 0
    in_new_york = replace(book, accounts={"acme": Account("acme", "pro", "America/New_York")})
    assert sum(one.refused_requests for one in replay(requests, in_new_york)) == 1


def test_totals_are_the_sum_of_all_accounts() -> None:
    requests = every_second(5)
    reports = [report_of(a_book_of(HOURLY), *requests[:start]) for start in (4, 5)]
    whole = total(reports)
    assert (whole.requests, whole.refused_requests, whole.plans) == (9, 3, {"pro": 9})
    assert whole.refused["hourly", "quota"].waits == {"later": 3}
    assert (whole.units["requests"].recorded, whole.units["requests"].replayed) == (9, 6)
    assert (whole.first_us, whole.last_us) == (START, START + 4 * MICRO)


def test_the_json_of_a_report_holds_integers_and_instants() -> None:
    document = report_of(a_book_of(HOURLY), *every_second(5)).as_json()
    assert document["refusals"] == [
        {
            "limit": "hourly", "reason": "quota", "requests": 2, "longest_wait_ms": 3_597_000,
            "would_fit_within": {"later": 2},
        }
    ]  # fmt: skip
    assert document["quotas"] == [
        {"limit": "hourly", "key": None, "units": 3, "peak": 3,
         "used_up_at": "2026-09-21T14:00:02Z"}
    ]  # fmt: skip
    assert document["units"] == {"requests": {"recorded": 5, "replayed": 3, "difference": -2}}


def test_requests_that_may_wait_are_spaced_one_after_the_other() -> None:
    rate = replace(RATE, max_wait_us=3 * MICRO)
    requests = [a_request(number, START) for number in range(6)]
    report = report_of(a_book_of(rate), *requests)
    waited = report.waited["per-second"]
    assert (waited.requests, waited.longest_us, waited.total_us) == (3, 3 * MICRO, 6 * MICRO)
    assert report.refused["per-second", "rate"].requests == 2  # the fifth and the sixth do not fit
    assert report.units["requests"].replayed == 4
    assert report.changed


def test_a_request_that_waited_takes_its_slot_later() -> None:
    slots = ConcurrencyLimit("in-flight", 1, max_wait_us=10 * MICRO)
    requests = [a_request(number, START, latency_ms=4000) for number in range(4)]
    report = report_of(a_book_of(slots), *requests)
    waited = report.waited["in-flight"]
    assert (waited.requests, waited.longest_us) == (2, 8 * MICRO)
    assert report.refused["in-flight", "concurrency"].longest_us == 12 * MICRO


def test_no_request_waits_for_a_quota() -> None:
    rate = replace(RATE, max_wait_us=3 * MICRO)
    quota = QuotaLimit("hourly", "requests", 1, "hour", 1)
    report = report_of(a_book_of(rate, quota), a_request(1, START), a_request(2, START))
    assert (report.waited, report.refused_requests) == ({}, 1)


def test_totals_include_the_waits_of_all_accounts() -> None:
    rate = replace(RATE, max_wait_us=3 * MICRO)
    reports = [
        report_of(a_book_of(rate), a_request(1, START), a_request(2, START)) for _ in range(2)
    ]
    whole = total(reports).waited["per-second"]
    assert (whole.requests, whole.longest_us, whole.total_us) == (2, MICRO, 2 * MICRO)
