"""Templates give the same event as `usage_event`, or None if the request is not ordinary."""

import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.events.build import usage_event
from sidecar.core.events.periods import periods_of
from sidecar.core.events.templates import MAX_PERIODS, MAX_TEMPLATES, EventTemplates
from sidecar.core.kinds import MICRO, RateLimit
from sidecar.core.model import Account, Claim, Entitlement, Key, Plan, RequestClass, Route, Team
from sidecar.core.periods import midnight
from sidecar.core.settlement import Outcome, OutcomeReason
from sidecar.core.text import instant
from tests.support.builders import a_quota

GUARD = RateLimit("critical", "calls", 100, MICRO, 200, (100, 1))
ROUTE = Route(
    "chat",
    "POST /v1/chat",
    "POST",
    "/v1/chat",
    RequestClass.STANDARD,
    frozenset(),
    (("requests", 1),),
)
PLAN = Plan("pro", 1, frozenset(), (), GUARD, "deny")
ENTITLED = Entitlement(PLAN, ROUTE, (), (), None, b"", ())
KEY = Key("k1", Account("acme", "pro"))
OK = Outcome(200, OutcomeReason.OK, 41, 512, 2048)
VERSION = "sha256:ab"
NAMES = st.text(st.characters(codec="ascii"), min_size=1)
COUNTS = st.integers(0, 2**53)


def values_of(**changes: Any) -> dict[str, Any]:
    """The arguments of `fill` for one ordinary request."""
    defaults: dict[str, Any] = {
        "id": "019", "time": "2026-11-23T08:30:00.123Z", "key": KEY, "entitlement": ENTITLED,
        "plan_version": VERSION, "method": "POST", "outcome": OK,
    }  # fmt: skip
    return defaults | changes


@given(
    source=NAMES, account=NAMES, key=NAMES, plan=NAMES, route=NAMES, meter=NAMES,
    units=COUNTS, status=st.integers(100, 599), latency=COUNTS, size=COUNTS, answer=COUNTS,
    clock=st.sampled_from(["redis", "node"]), quota=st.none() | NAMES,
    zone=st.sampled_from(["UTC", "Asia/Kathmandu"]), months=st.lists(st.integers(1, 12)),
)  # fmt: skip
def test_I4_a_template_gives_the_event_of_usage_event(
    source: str, account: str, key: str, plan: str, route: str, meter: str,
    units: int, status: int, latency: int, size: int, answer: int,
    clock: str, quota: str | None, zone: str, months: list[int],
) -> None:  # fmt: skip
    entitlement = replace(
        ENTITLED,
        plan=replace(PLAN, id=plan),
        route=replace(ROUTE, id=route, cost=((meter, units),)),
        claims=() if quota is None else (Claim(a_quota(id=quota), units, False),),
    )
    values = values_of(
        key=Key(key, Account(account, plan, zone)), entitlement=entitlement, clock=clock,
        outcome=Outcome(status, OutcomeReason.OK, latency, size, answer),
    )  # fmt: skip
    templates = EventTemplates(source, VERSION)
    for month in (1, *months):  # the template and its ends are made, then reused
        ends_us = () if quota is None else (midnight(date(2026, month, 1), zone),)
        starts_us = (12_000_000 * month,) if quota is not None and month % 2 else ()
        written = templates.fill(**values, ends_us=ends_us, starts_us=starts_us)
        assert written is not None
        periods = periods_of(entitlement.claims, ends_us, values["key"].account, starts_us)
        event = usage_event(source=source, periods=periods, **values)
        assert list(json.loads(written).items()) == list(event.items())
        assert list(json.loads(written)["data"]) == list(event["data"])


@pytest.mark.parametrize(
    "changes",
    [
        *({"outcome": OK._replace(reason=reason)} for reason in OutcomeReason if reason != "ok"),
        {"entitlement": replace(ENTITLED, plan=replace(PLAN, refunds=frozenset({"upstream_5xx"}))),
         "outcome": OK._replace(status=503)},
        {"entitlement": replace(ENTITLED, estimates=(("tokens", object()),))},
        {"entitlement": replace(ENTITLED, settles=(("tokens", object()),))},
        {"key": Key("k1", Account("acme", "pro", teams=(Team("search", 40),)), "search")},
        {"entitlement": replace(ENTITLED, claims=(Claim(a_quota(), 1, False),)), "ends_us": ()},
        {"key": Key("k1", Account("café", "pro"))},
        {"key": Key("\ud800", Account("acme", "pro"))},
    ],
)  # fmt: skip
def test_no_template_fits_a_request_that_is_not_ordinary(changes: dict[str, Any]) -> None:
    assert EventTemplates("/s", VERSION).fill(**values_of(**changes)) is None


def test_each_method_has_its_own_template() -> None:
    templates = EventTemplates("/s", VERSION)
    for method in ("GET", "HEAD", "GET"):
        written = templates.fill(**values_of(method=method))
        assert written is not None
        assert json.loads(written)["data"]["method"] == method


def test_I7_no_template_fits_another_plan_book_and_none_is_kept() -> None:
    templates = EventTemplates("/s", VERSION)
    assert templates.fill(**values_of(plan_version="sha256:cd")) is None
    assert not templates._templates


def test_I9_templates_are_bounded_and_never_mixed_up() -> None:
    templates = EventTemplates("/s", VERSION)
    for number in range(MAX_TEMPLATES + 10):
        route = replace(ROUTE, id=f"r{number}")  # freed at once: the next one may get its address
        written = templates.fill(**values_of(entitlement=replace(ENTITLED, route=route)))
        assert written is not None
        assert json.loads(written)["data"]["route"] == f"r{number}"
    assert len(templates._templates) <= MAX_TEMPLATES


def test_I9_periods_of_a_template_are_bounded_and_never_mixed_up() -> None:
    templates = EventTemplates("/s", VERSION)
    entitlement = replace(ENTITLED, claims=(Claim(a_quota(period="3600s"), 1, False),))
    for hour in range(1, MAX_PERIODS + 10):
        end_us = hour * 3_600 * MICRO
        written = templates.fill(**values_of(entitlement=entitlement), ends_us=(end_us,))
        assert written is not None
        end = f"{instant(end_us - 3_600 * MICRO)}/{instant(end_us)}"
        assert json.loads(written)["data"]["periods"] == {"monthly": end}
    [template] = templates._templates.values()
    assert len(template.ends) <= MAX_PERIODS
