"""Usage, refusal and notice events have the members that billing needs."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest

from sidecar.core.costs import Unreadable
from sidecar.core.events.build import notice_event, refusal_event, usage_event
from sidecar.core.events.read import EventParser
from sidecar.core.json_path import JsonPath
from sidecar.core.kinds import MICRO, QuotaLimit, RateLimit, Scope
from sidecar.core.model import Account, Entitlement, Key, Plan, RequestClass, Route, Team
from sidecar.core.readings import Reading
from sidecar.core.reasons import NO_OVERAGE, Overage, Reason, ThresholdCrossing
from sidecar.core.settlement import Outcome, OutcomeReason

NOW = 1_790_000_000_000_000
TIME = "2026-11-23T08:30:00.123Z"
KEY = Key("k1", Account("acme", "pro"))
GUARD = RateLimit("critical", "calls", 100, MICRO, 200, (100, 1))
CHAT = Route("chat", "POST /v1/chat", "POST", "/v1/chat", RequestClass.STANDARD, frozenset(),
             (("requests", 1), ("tokens", 350)))  # fmt: skip
ENTITLEMENT = Entitlement(
    Plan("pro", 1, frozenset(), (), GUARD, "deny"), CHAT, (), (), None, b"", ()
)


def a_usage(overage: Overage = NO_OVERAGE, **changes: Any) -> dict[str, Any]:
    outcome = Outcome(200, OutcomeReason.OK, 41, 512, 2048)._replace(**changes)
    return usage_event(
        id="019", source="/sidecar/shop", time=TIME, key=KEY, entitlement=ENTITLEMENT,
        plan_version="sha256:ab", overage=overage, method="POST", outcome=outcome,
    )  # fmt: skip


def a_notice(per: Scope = "account", key: Key = KEY, **changes: Any) -> dict[str, Any]:
    limit = QuotaLimit("monthly", "requests", 1000, "month", 1000, (80,), per)
    values = {"percent": 80, "used": 800, "period_end_us": NOW} | changes
    return notice_event(
        source="/sidecar/shop", time=TIME, key=key, entitlement=ENTITLEMENT,
        plan_version="sha256:ab", crossing=ThresholdCrossing(limit, **values),
    )  # fmt: skip


def test_I4_a_forwarded_request_is_one_billable_event_with_all_meters() -> None:
    assert json.loads(orjson.dumps(a_usage(Overage((("tokens", 50),), (("monthly", 50),))))) == {
        "specversion": "1.0",
        "id": "019",
        "source": "/sidecar/shop",
        "type": "api.request.v1",
        "subject": "acme",
        "time": TIME, "clock": "node",
        "datacontenttype": "application/json",
        "data": {
            "key": "k1", "plan": "pro", "plan_version": "sha256:ab", "route": "chat",
            "class": "standard", "method": "POST", "status": 200,
            "usage": {"requests": 1, "tokens": 350}, "overage": {"requests": 0, "tokens": 50},
            "billable": True, "reason": "ok", "latency_ms": 41, "bytes_in": 512,
            "bytes_out": 2048, "overage_by_limit": {"monthly": 50},
        },
    }  # fmt: skip


@pytest.mark.parametrize("reason", OutcomeReason)
def test_every_outcome_is_named_in_the_event(reason: OutcomeReason) -> None:
    data = json.loads(json.dumps(a_usage(status=502, reason=reason)))["data"]
    assert (data["reason"], data["status"]) == (reason.value, 502)


def test_events_share_no_mutable_value() -> None:
    first, second = a_usage(), a_usage()
    first["data"]["usage"]["requests"] = 99
    first["data"]["overage"]["requests"] = 99
    assert second["data"]["usage"]["requests"] == 1
    assert second["data"]["overage"]["requests"] == 0


@pytest.mark.parametrize(
    ("entitlement", "plan", "route", "request_class"),
    [(ENTITLEMENT, "pro", "chat", "standard"), (None, "pro", None, None)],
)
def test_I4_a_refusal_is_another_type_and_never_billable(
    entitlement: Entitlement | None, plan: str, route: str | None, request_class: str | None
) -> None:
    event = refusal_event(
        id="019", source="/sidecar/shop", time=TIME, key=KEY, entitlement=entitlement,
        plan_version="sha256:ab", status=429, reason=Reason.QUOTA,
    )  # fmt: skip
    assert (event["type"], event["subject"], event["id"]) == ("api.refusal.v1", "acme", "019")
    assert event["data"] == {
        "key": "k1", "plan": plan, "plan_version": "sha256:ab", "route": route,
        "class": request_class, "status": 429, "billable": False, "reason": "quota",
    }  # fmt: skip


def test_events_name_the_team() -> None:
    teams = (Team("search", 40),)
    key = Key("k1", replace(KEY.account, teams=teams), "search")
    called = usage_event(
        id="019", source="/sidecar/shop", time=TIME, key=key, entitlement=ENTITLEMENT,
        plan_version="sha256:ab", method="POST",
        outcome=Outcome(200, OutcomeReason.OK, 41, 512, 2048),
    )  # fmt: skip
    refused = refusal_event(
        id="019", source="/sidecar/shop", time=TIME, key=key, entitlement=ENTITLEMENT,
        plan_version="sha256:ab", status=429, reason=Reason.QUOTA,
    )  # fmt: skip
    assert called["data"]["team"] == refused["data"]["team"] == "search"
    assert EventParser().parse(orjson.loads(orjson.dumps(called))).team == "search"
    plain = a_usage()
    assert "team" not in plain["data"]
    assert EventParser().parse(orjson.loads(orjson.dumps(plain))).team == ""


def test_a_notice_names_the_crossed_threshold() -> None:
    event = a_notice()
    assert (event["type"], event["subject"]) == ("account.notice.v1", "acme")
    assert event["data"] == {
        "plan": "pro", "plan_version": "sha256:ab", "limit": "monthly", "meter": "requests",
        "percent": 80, "used": 800, "limit_units": 1000, "period_end": "2026-09-21T14:13:20Z",
    }  # fmt: skip


def test_the_same_threshold_and_period_is_the_same_event() -> None:
    assert a_notice()["id"] == a_notice(used=801)["id"]
    assert a_notice()["id"] == f"notice/acme/monthly/{NOW}/80"
    other_key = Key("k2", KEY.account)
    assert a_notice(key=other_key)["id"] == a_notice()["id"]
    assert a_notice("key", other_key)["id"] != a_notice("key")["id"]
    assert a_notice("key")["data"]["key"] == "k1"
    assert len({a_notice(percent=p, period_end_us=e)["id"] for p in (80, 90) for e in (1, 2)}) == 4


TOKENS = JsonPath.parse("usage.total_tokens")
SETTLED = replace(ENTITLEMENT, settles=(("tokens", TOKENS),))
READ = Reading({"tokens": 300}, {})
UNREAD = Reading.failed(["tokens"], Unreadable.NOT_JSON)


def late_data(
    entitlement: Entitlement, reading: Reading | None, overage: Overage = NO_OVERAGE
) -> dict[str, Any]:
    event = usage_event(
        id="019", source="/sidecar/shop", time=TIME, key=KEY, entitlement=entitlement,
        plan_version="sha256:ab", overage=overage, method="POST",
        outcome=Outcome(200, OutcomeReason.OK, 41, 512, 2048, reading),
    )  # fmt: skip
    data: dict[str, Any] = json.loads(orjson.dumps(event))["data"]
    return data


def test_the_cost_in_the_response_is_the_usage() -> None:
    data = late_data(SETTLED, READ)
    assert data["usage"] == {"requests": 1, "tokens": 300}
    assert "estimated" not in data


def test_a_response_without_the_cost_leaves_the_estimate_marked_as_such() -> None:
    data = late_data(SETTLED, UNREAD)
    assert data["usage"] == {"requests": 1, "tokens": 350}
    assert data["estimated"] == {"tokens": "not_json"}


def test_without_a_response_the_estimate_remains_marked_as_such() -> None:
    data = late_data(SETTLED, None)
    assert data["usage"]["tokens"] == 350
    assert data["estimated"] == {"tokens": "unanswered"}


def test_a_default_cost_is_marked_until_the_response_has_the_cost() -> None:
    defaulted = replace(SETTLED, defaulted=(("tokens", Unreadable.MISSING),))
    assert "estimated" not in late_data(defaulted, READ)
    assert late_data(defaulted, UNREAD)["estimated"] == {"tokens": "not_json"}
    only_reserved = replace(defaulted, settles=())
    assert late_data(only_reserved, None)["estimated"] == {"tokens": "missing"}


def test_overage_is_what_the_store_reported_whatever_the_cost() -> None:
    for reading in (None, READ, Reading({"tokens": 0}, {})):
        data = late_data(SETTLED, reading, Overage((("tokens", 40),), (("monthly", 40),)))
        assert data["overage"] == {"requests": 0, "tokens": 40}
        assert data["overage_by_limit"] == {"monthly": 40}
        assert "overage_pending" not in data


def test_events_of_requests_without_late_costs_do_not_change() -> None:
    assert "estimated" not in a_usage()["data"]
