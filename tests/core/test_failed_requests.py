"""Requests that fail are settled at what the response reports, or at nothing; `refund` words."""

from dataclasses import replace

import pytest

from sidecar.config import values
from sidecar.core.claims import claims_for
from sidecar.core.costs import Unreadable
from sidecar.core.json_path import JsonPath
from sidecar.core.readings import Reading
from sidecar.core.settlement import (
    REFUNDABLE,
    Outcome,
    OutcomeReason,
    actual_claims,
    failed,
    late_costs,
    refunded,
)
from tests.support.builders import a_plan, a_quota, a_route, an_entitlement

UNREAD = Reading.failed(["tokens"], Unreadable.NOT_JSON)
PLAN = a_plan(a_quota(100), a_quota(1000, id="tokens", meter="tokens"))
ROUTE = a_route(cost=(("requests", 1), ("tokens", 800)))
LATE = an_entitlement(PLAN, ROUTE, settles=(("tokens", JsonPath.parse("usage.total_tokens")),))
LATE = replace(LATE, claims=claims_for(LATE, dict(ROUTE.cost)))


def an_outcome(
    status: int, reason: OutcomeReason = OutcomeReason.OK, *, begun: bool = True
) -> Outcome:
    return Outcome(status, reason, 1, 10, 20, UNREAD, begun)


@pytest.mark.parametrize(
    "outcome",
    [
        *(an_outcome(status) for status in (400, 401, 404, 429, 500, 503, 529)),
        an_outcome(502, OutcomeReason.UPSTREAM_REFUSED, begun=False),
        an_outcome(502, OutcomeReason.UPSTREAM_BROKEN, begun=False),
        an_outcome(200, OutcomeReason.UPSTREAM_BROKEN),
        an_outcome(504, OutcomeReason.UPSTREAM_TIMEOUT, begun=False),
        an_outcome(503, OutcomeReason.OVERLOADED, begun=False),
        an_outcome(499, OutcomeReason.CANCELLED, begun=False),
        an_outcome(500, OutcomeReason.CLIENT_GONE),
    ],
)
def test_I11_a_failed_request_settles_its_late_costs_at_nothing(outcome: Outcome) -> None:
    for each in (outcome, outcome._replace(reading=None)):
        assert failed(each)
        assert late_costs(LATE, each) == Reading({"tokens": 0}, {})
        assert [claim.cost for claim in actual_claims(LATE, each)] == [1, 0]


@pytest.mark.parametrize(
    "outcome",
    [
        an_outcome(200),
        an_outcome(304),
        an_outcome(200, OutcomeReason.CLIENT_GONE),
        an_outcome(499, OutcomeReason.CLIENT_GONE, begun=False),
        an_outcome(408, OutcomeReason.CLIENT_GONE, begun=False),
    ],
)
def test_I11_a_client_that_leaves_keeps_the_estimate(outcome: Outcome) -> None:
    assert not failed(outcome)
    assert late_costs(LATE, outcome) == UNREAD
    assert [claim.cost for claim in actual_claims(LATE, outcome)] == [1, 800]


def test_a_cost_that_a_failed_response_reports_is_charged() -> None:
    outcome = an_outcome(429)._replace(reading=Reading({"tokens": 3}, {}))
    assert [claim.cost for claim in actual_claims(LATE, outcome)] == [1, 3]


@pytest.mark.parametrize(
    ("word", "refunds"),
    [
        (429, {429}),
        ("529", {529}),
        ("4xx", {400, 401, 429, 499}),
        ("upstream_4xx", {400, 401, 429, 499}),
        ("5xx", {500, 529}),
        ("upstream_5xx", {500, 529}),
        ("upstream_refused", set()),
    ],
)
def test_refund_knows_statuses_and_their_classes(word: str | int, refunds: set[int]) -> None:
    plan = a_plan(refunds=frozenset({values.refund(word)}))
    entitlement = an_entitlement(plan, ROUTE)
    statuses = (200, 304, 400, 401, 429, 499, 500, 529)
    assert {s for s in statuses if refunded(entitlement, an_outcome(s))} == refunds


@pytest.mark.parametrize("word", ["everything", "600", "399", 200, True, None, "3xx", [429]])
def test_other_words_are_no_refund(word: object) -> None:
    with pytest.raises(ValueError, match="is not an outcome; write a status like 429, or one of"):
        values.refund(word)


@pytest.mark.parametrize("reason", sorted(REFUNDABLE - {"upstream_4xx", "upstream_5xx"}))
def test_refund_knows_the_outcomes_without_an_answer(reason: str) -> None:
    entitlement = an_entitlement(a_plan(refunds=frozenset({reason})), ROUTE)
    outcome = an_outcome(502, OutcomeReason(reason), begun=False)
    assert refunded(entitlement, outcome)
    assert not refunded(an_entitlement(a_plan(), ROUTE), outcome)
