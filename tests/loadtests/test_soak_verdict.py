"""The verdict of the soak, which must detect leaks, lost events, miscounts and log errors."""

import json
from typing import Any

import pytest

from loadtests.soak import verdict
from loadtests.soak.accounts import Quota, document, open_plans, quotas_of
from loadtests.soak.environment import Sample
from loadtests.soak.observations import End, Result
from loadtests.soak.reconciliation import REQUEST, Counter, Event, Sum, event_of, sums

MIB = verdict.MIB
MONTHLY = Quota("acme", "monthly", "requests", None)
PER_KEY = Quota("acme", "per-key", "requests", "k1")
START_US = 1_800_000_000_000_000  # of a period


def a_sample(**changes: int) -> Sample:
    values: dict[str, Any] = {"rss": MIB, "files": 20, "tasks": 7, "clients": 0, "upstreams": 0}
    return Sample(**values | changes, counts={})


def an_event(number: int = 1, **changes: Any) -> Event:
    values = {
        "seq": number, "type": REQUEST, "id": f"id-{number}", "account": "acme", "key": "k1",
        "plan": "pro", "request_class": "standard", "time_us": START_US + 10_000_000, "status": 200,
        "reason": "ok", "usage": {"requests": 1},
    }  # fmt: skip
    return Event(**values | changes)


def results(end: End, status: int = 200) -> dict[str, Result]:
    return {"id-1": Result(end, status, has_limits=True)}


def mib(*numbers: int) -> list[int]:
    """Ten samples of memory for each number."""
    return [number * MIB for number in numbers for _ in range(10)]


@pytest.mark.parametrize(
    ("rss", "seconds"),
    [(mib(60, 70, 70, 70, 70), 600), (mib(60, 70, 80, 80, 73), 600), (mib(60, 70, 72, 73, 74), 59)],
)
def test_memory_that_settles_is_flat(rss: list[int], seconds: int) -> None:
    assert verdict.grown(rss, seconds) == []


@pytest.mark.parametrize(("last", "seconds"), [(74, 600), (74, 60), (75, 59)])
def test_memory_that_grows_after_the_warm_up_is_not_flat(last: int, seconds: int) -> None:
    sentences = verdict.grown(mib(60, 70, 71, 72, last), seconds)
    assert sentences == [f"it grew from 70.0 to {last}.0 MiB"]


def test_too_few_samples_of_memory_prove_nothing() -> None:
    assert verdict.grown([MIB] * 9, 600) == ["too few samples of memory"]


@pytest.mark.parametrize("name", verdict.RESTING)
def test_one_more_of_a_resource_at_rest_is_named(name: str) -> None:
    before = a_sample()
    after = a_sample(**{name: getattr(before, name) + 1})
    (sentence,) = verdict.left_over(before, after)
    assert sentence.startswith(f"{name}: ")
    assert verdict.left_over(after, before) == []


@pytest.mark.parametrize(
    ("used", "lost", "broken"),
    [(9, 0, True), (10, 0, False), (12, 0, False), (13, 0, True), (13, 1, False), (14, 1, True)],
)
def test_a_counter_must_match_the_events(used: int, lost: int, broken: bool) -> None:
    counters = {MONTHLY: Counter(used, START_US)}
    usage = {MONTHLY: Sum(certain=10, doubtful=2)}
    sentences = verdict.miscounted(counters, usage, {"acme": lost, "another": 100})
    assert bool(sentences) is broken


def test_a_miscount_is_reported_in_numbers() -> None:
    sentences = verdict.miscounted({PER_KEY: Counter(11, START_US)}, {PER_KEY: Sum(10)}, {})
    assert sentences == ["acme/k1 per-key: the counter is 11, the events are 10"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (an_event(), Sum(1)),
        (an_event(usage={"requests": 5, "uploads": 1}), Sum(5)),
        (an_event(usage={"uploads": 1}), Sum()),
        (an_event(account="another"), Sum()),
        (an_event(key="k2"), Sum()),
        (an_event(request_class="critical"), Sum(doubtful=1)),
        (an_event(time_us=START_US), Sum(1)),
        (an_event(time_us=START_US - 1), Sum(doubtful=1)),
        (an_event(time_us=START_US - 10_000_000), Sum()),
    ],
)
def test_usage_is_added_up_by_account_key_meter_and_period(event: Event, expected: Sum) -> None:
    counters = {PER_KEY: Counter(0, START_US)}
    usage = sums([event], counters, lambda one: one.request_class == "critical")
    assert usage == {PER_KEY: expected}


def test_every_quota_of_the_plan_file_is_compared() -> None:
    names = {str(quota) for quota in quotas_of(document())}
    assert {"tina hourly", "bea monthly", "bea/k1 per-key", "bea/k2 per-key", "opal uploads",
            "olga cycle"} <= names  # fmt: skip
    assert open_plans(document()) == {"open"}


@pytest.mark.parametrize(
    ("answers", "events", "sentence"),
    [
        (results(End.ANSWERED), [], "1 requests were answered and have no event, like id-1"),
        (results(End.FAILED, 502), [], "1 requests were answered and have no event, like id-1"),
        (
            results(End.ANSWERED),
            [an_event(status=502)],
            "1 answered requests (200) have an event with",
        ),
        (
            results(End.ANSWERED),
            [an_event(reason="client_gone")],
            "1 answered requests have an event",
        ),
        (results(End.CUT), [an_event()], "1 cut requests have an event with reason ok"),
        (
            results(End.REFUSED, 429),
            [an_event()],
            "1 refused requests (429) have an event, like id-1",
        ),
    ],
)
def test_a_request_and_its_event_that_differ_are_named(
    answers: dict[str, Result], events: list[Event], sentence: str
) -> None:
    (violation,) = verdict.misrecorded(answers, 0, events)
    assert violation.startswith(sentence)


@pytest.mark.parametrize(
    ("answers", "events"),
    [
        (results(End.ANSWERED), [an_event()]),
        (results(End.ANSWERED, 101), [an_event(status=101, reason="client_gone")]),
        (results(End.CUT), [an_event(reason="upstream_broken")]),
        (results(End.REFUSED, 429), []),
        (results(End.UNCERTAIN, 503), []),
        ({}, [an_event(reason="client_gone")]),
    ],
)
def test_a_request_and_its_event_that_agree_have_no_violation(
    answers: dict[str, Result], events: list[Event]
) -> None:
    assert verdict.misrecorded(answers, 0, events) == []


def test_a_reset_without_an_event_of_a_failure_is_named() -> None:
    failure = an_event(reason="upstream_broken")
    assert verdict.misrecorded({}, 1, [failure]) == []
    assert verdict.misrecorded({}, 2, [failure]) == [
        "2 connections were reset, but only 1 events say why"
    ]


@pytest.mark.parametrize(
    ("events", "appended", "sentence"),
    [
        ([an_event(1), an_event(3)], 3, "2 events were shipped, 3 were written to the spool"),
        ([an_event(1)], 2, "1 events were shipped, 2 were written to the spool"),
        (
            [an_event(1), an_event(2, id="id-1")],
            2,
            "1 requests have more than one event, like id-1",
        ),
    ],
)
def test_lost_and_repeated_events_are_named(
    events: list[Event], appended: int, sentence: str
) -> None:
    assert verdict.broken_events(events, appended) == [sentence]


def test_complete_events_have_no_violation() -> None:
    notice = an_event(2, type="account.notice.v1", id="notice/acme")
    again = notice._replace(seq=3)
    assert verdict.broken_events([an_event(1), notice, again], 3) == []


def a_line(**changes: str) -> str:
    return json.dumps({"level": "info", "event": "sidecar_serving"} | changes)


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "Task exception was never retrieved",
        a_line(level="error", event="events_dropped"),
        a_line(exception="Traceback (most recent call last): …"),
    ],
)
def test_a_traceback_or_an_error_in_the_log_is_named(line: str) -> None:
    (sentence,) = verdict.bad_log_lines([a_line(), line, line])
    assert sentence.startswith("2 × ")


def test_errors_of_injected_faults_are_no_violation() -> None:
    refused = a_line(level="error", event="plan_file_rejected")
    assert (
        verdict.bad_log_lines([refused, a_line(level="warning", event="redis_unreachable")]) == []
    )


def test_a_kind_that_never_occurred_is_named() -> None:
    assert verdict.never_counted(
        {"answered": 3, "cut": 0}, ["answered", "cut", "API restarts"]
    ) == [
        "never: cut",
        "never: API restarts",
    ]


def test_violations_are_listed_most_frequent_first() -> None:
    assert verdict.forbidden({"rare": 1, "common": 7}) == ["7 × common", "1 × rare"]


def test_a_spool_line_is_parsed() -> None:
    line = {
        "spool": "s", "seq": 7, "prev": "0", "id": "id-7", "type": REQUEST, "subject": "acme",
        "time": "2027-01-15T08:00:00.250Z",
        "data": {"key": "k1", "plan": "pro", "class": "critical", "status": 200, "reason": "ok",
                 "usage": {"requests": 5}},
    }  # fmt: skip
    event = event_of(line)
    assert (event.seq, event.account, event.key, event.usage) == (7, "acme", "k1", {"requests": 5})
    assert event.time_us == START_US + 250_000
