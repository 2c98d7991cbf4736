"""An event that is filled in is the one of `usage_event`; others are not filled in."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.events.build import usage_event
from sidecar.core.events.templates import MOST_FORMS, EventForms
from sidecar.core.model import (
    MICRO,
    Account,
    Entitlement,
    Key,
    Plan,
    RateLimit,
    RequestClass,
    Route,
    Team,
)
from sidecar.core.settlement import Outcome, OutcomeReason

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
FOUND = Entitlement(PLAN, ROUTE, (), (), None, b"", ())
KEY = Key("k1", Account("acme", "pro"))
OK = Outcome(200, OutcomeReason.OK, 41, 512, 2048)
VERSION = "sha256:ab"
NAMES = st.text(st.characters(codec="ascii"), min_size=1)
COUNTS = st.integers(0, 2**53)


def told(**changes: Any) -> dict[str, Any]:
    """What is told of one call."""
    values: dict[str, Any] = {
        "id": "019", "time": "2026-11-23T08:30:00.123Z", "key": KEY, "entitlement": FOUND,
        "plan_version": VERSION, "method": "POST", "outcome": OK,
    }  # fmt: skip
    return values | changes


@given(
    source=NAMES, account=NAMES, key=NAMES, plan=NAMES, route=NAMES, meter=NAMES,
    units=COUNTS, status=st.integers(100, 599), latency=COUNTS, size=COUNTS, answer=COUNTS,
)  # fmt: skip
def test_I4_it_is_the_same_event(
    source: str, account: str, key: str, plan: str, route: str, meter: str,
    units: int, status: int, latency: int, size: int, answer: int,
) -> None:  # fmt: skip
    found = replace(
        FOUND,
        plan=replace(PLAN, id=plan),
        route=replace(ROUTE, id=route, cost=((meter, units),)),
    )
    call = told(
        key=Key(key, Account(account, plan)), entitlement=found,
        outcome=Outcome(status, OutcomeReason.OK, latency, size, answer),
    )  # fmt: skip
    forms = EventForms(source, VERSION)
    for _ in range(2):  # the form is made, and used again
        written = forms.fill(**call)
        assert written is not None
        event = usage_event(source=source, overage=(), **call)
        assert list(json.loads(written).items()) == list(event.items())
        assert list(json.loads(written)["data"]) == list(event["data"])


@pytest.mark.parametrize(
    "changes",
    [
        *({"outcome": OK._replace(reason=reason)} for reason in OutcomeReason if reason != "ok"),
        {"entitlement": replace(FOUND, plan=replace(PLAN, refunds=frozenset({"upstream_5xx"}))),
         "outcome": OK._replace(status=503)},
        {"entitlement": replace(FOUND, estimates=(("tokens", object()),))},
        {"entitlement": replace(FOUND, settles=(("tokens", object()),))},
        {"key": Key("k1", Account("acme", "pro", teams=(Team("search", 40),)), "search")},
        {"key": Key("k1", Account("café", "pro"))},
        {"key": Key("\ud800", Account("acme", "pro"))},
    ],
)  # fmt: skip
def test_what_says_more_is_not_filled_in(changes: dict[str, Any]) -> None:
    assert EventForms("/s", VERSION).fill(**told(**changes)) is None


def test_a_form_is_of_one_method() -> None:
    forms = EventForms("/s", VERSION)
    for method in ("GET", "HEAD", "GET"):
        written = forms.fill(**told(method=method))
        assert written is not None
        assert json.loads(written)["data"]["method"] == method


def test_I7_another_books_events_are_not_filled_in_and_nothing_is_kept_of_it() -> None:
    forms = EventForms("/s", VERSION)
    assert forms.fill(**told(plan_version="sha256:cd")) is None
    assert not forms._forms


def test_I9_forms_are_bounded_and_none_is_taken_for_anothers() -> None:
    forms = EventForms("/s", VERSION)
    for number in range(MOST_FORMS + 10):
        route = replace(ROUTE, id=f"r{number}")  # freed at once: the next may have its address
        written = forms.fill(**told(entitlement=replace(FOUND, route=route)))
        assert written is not None
        assert json.loads(written)["data"]["route"] == f"r{number}"
    assert len(forms._forms) <= MOST_FORMS
