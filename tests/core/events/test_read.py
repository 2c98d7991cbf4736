"""The parser of usage events: every valid form is read, everything else is invalid."""

from typing import Any

import orjson
import pytest

from sidecar.core.events.read import OVERAGE, EventParser, InvalidEvent, RecordedRequest
from tests.support.recorded_events import EVENT, NOON_US, an_event


def test_an_event_is_read() -> None:
    assert EventParser().parse(an_event()) == RecordedRequest(
        "acme", NOON_US + 123_000, "019", "/sidecar/shop", "k1", "pro", "sha256:ab", "chat",
        (("requests", 1), ("tokens", 0)), (), True, 200, "ok", 41,
    )  # fmt: skip


def test_overage_holds_only_meters_with_units() -> None:
    read = EventParser().parse(an_event("data.overage", {"requests": 0, "tokens": 7}))
    assert read.overage == (("tokens", 7),)


def test_overage_by_limit_is_read_if_the_event_has_it() -> None:
    read = EventParser().parse(an_event("data.overage_by_limit", {"daily": 0, "monthly": 7}))
    assert read.overage_by_limit == (("monthly", 7),)
    assert EventParser().parse(an_event()).overage_by_limit == ()


def an_overage_event(**changes: Any) -> dict[str, Any]:
    data = {
        "key": "k1", "plan": "pro", "plan_version": "sha256:ab", "route": "chat", "request": "019",
        "overage": {"tokens": 7}, "overage_by_limit": {"monthly": 7}, "billable": True,
        "periods": {},
    }  # fmt: skip
    return an_event("id", "overage/019") | {"type": OVERAGE, "data": data | changes}


def test_an_overage_event_is_read_as_a_request_without_units() -> None:
    read = EventParser().parse_overage(an_overage_event())
    assert (read.id, read.time_us, read.billable) == ("overage/019", NOON_US + 123_000, True)
    assert (read.usage, read.overage) == ((("tokens", 0),), (("tokens", 7),))
    assert read.overage_by_limit == (("monthly", 7),)


@pytest.mark.parametrize(
    "changes", [{"overage": None}, {"overage": {"tokens": -1}}, {"overage_by_limit": {"m": "7"}},
                {"overage_by_limit": []}, {"key": None}, {"billable": 1}],
)  # fmt: skip
def test_an_invalid_overage_event_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        EventParser().parse_overage(an_overage_event(**changes))
    with pytest.raises(InvalidEvent):
        EventParser().parse_overage({"type": OVERAGE})


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("2026-11-23T08:30:00.123Z", NOON_US + 123_000),
        ("2026-11-23T08:30:00Z", NOON_US),
        ("2026-11-23T09:30:00.5+01:00", NOON_US + 500_000),
        ("2026-11-23T08:30:00.000001+00:00", NOON_US + 1),
    ],
)
def test_every_rfc_3339_form_of_an_instant_is_read(text: str, at_us: int) -> None:
    parser = EventParser()
    for _ in range(2):  # the second time from the cache
        assert parser.parse(an_event("time", text)).time_us == at_us
        assert parser.parse(an_event()).time_us == NOON_US + 123_000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("subject", ...), ("subject", 7), ("subject", None), ("source", []), ("id", 7),
        ("data", ...), ("data", []), ("data", None), ("data.key", ...), ("data.plan", {}),
        ("data.plan_version", None), ("data.route", None), ("data.reason", True),
        ("data.usage", ...), ("data.usage", [1]), ("data.usage", {"requests": -1}),
        ("data.usage", {"requests": 1.5}), ("data.usage", {"requests": "1"}),
        ("data.usage", {"requests": {}}), ("data.usage", {"requests": 2**53}),
        ("data.overage", None), ("data.billable", "true"), ("data.billable", 1),
        ("data.status", "200"), ("data.status", True), ("data.latency_ms", -1),
        ("data.latency_ms", 1.5), ("data.latency_ms", 10**12),
        ("time", ...), ("time", 7), ("time", ""), ("time", "yesterday"),
        ("time", "2026-11-23T08:30:00.123"), ("time", "2026-11-23T08:30:00.1x3Z"),
        ("time", "2026-11-23T08:30:00.+12Z"), ("time", "1969-12-31T23:59:59.000Z"),
        ("time", "9999-12-31T23:59:59.000Z"), ("time", "2026-11-23T08:30:00.\u0661\u0662\u0663Z"),
    ],
)  # fmt: skip
def test_an_event_with_a_missing_or_wrong_attribute_is_invalid(path: str, value: Any) -> None:
    parser = EventParser()
    parser.parse(an_event())
    with pytest.raises(InvalidEvent):
        parser.parse(an_event(path, value))
    assert parser.parse(an_event()).account == "acme"


def test_equal_texts_and_usages_of_events_share_one_value() -> None:
    parser = EventParser()
    first, second = (parser.parse(orjson.loads(orjson.dumps(EVENT))) for _ in range(2))
    assert first.usage is second.usage
    assert first.account is second.account


def test_requests_sort_by_account_and_time_so_that_copies_are_neighbours() -> None:
    parser = EventParser()
    a, b = parser.parse(an_event()), parser.parse(an_event("id", "018"))
    later = a._replace(time_us=a.time_us + 1, id="001")
    other = a._replace(account="beta", time_us=0)
    assert sorted([other, later, a, b, a]) == [b, a, a, later, other]
