"""Costs from sizes: of the request for the estimate, of the response if its cost is not known."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.loading import parse
from sidecar.core.claims import with_estimates
from sidecar.core.costs import Unreadable
from sidecar.core.kinds import MOST_UNITS
from sidecar.core.model import Entitlement
from sidecar.core.readings import Reading
from sidecar.core.settlement import (
    Outcome,
    OutcomeReason,
    actual_claims,
    estimated_costs,
    late_costs,
)

FILE: Final = """
version: 1
meters:
  tokens:
    unit: token
    reserve: {%s}
    settle: {json: usage.total, else: {%s}}
routes: [{id: chat, match: "/**", cost: {tokens: reserve}}]
plans: {p: {limits: [{id: q, meter: tokens, quota: 1000000/day}]}}
"""
SUM: Final = "json: max_tokens, default: 100, min: 16, bytes_per_unit: 4"
EVENTS: Final = "units_per_event: 2, bytes_per_unit: 4"
TRUNCATED: Final = Unreadable.TRUNCATED


def asking(
    units: int | None, size: int, reserve: str = SUM, otherwise: str = EVENTS
) -> Entitlement:
    """The entitlement of a request that asks for so many units, and has so many by its size."""
    chat = parse((FILE % (reserve, otherwise)).encode(), "p").entitlements["p", "chat"]
    values = {} if units is None else {"tokens": units}
    return with_estimates(chat, Reading(values, {}, None, {"tokens": size}))


def ended(
    counted: int | None,
    reason: OutcomeReason = OutcomeReason.OK,
    value: int | None = None,
    status: int = 200,
) -> Outcome:
    """An outcome without a whole cost, of which so many units have been counted."""
    values = {} if value is None else {"tokens": value}
    by_size = None if counted is None else {"tokens": counted}
    reading = Reading(values, {"tokens": TRUNCATED}, None, by_size)
    return Outcome(status, reason, 1, 10, 20, reading, begun=True)


@pytest.mark.parametrize(
    ("take", "asked", "size", "units"),
    [
        ("sum", 50, 7, 57),
        ("sum", 0, 7, 16),  # at least min
        ("sum", None, 7, 107),  # the default, and the size
        ("sum", MOST_UNITS, 7, MOST_UNITS),
        ("greater", 50, 7, 50),
        ("greater", 50, 70, 70),
        ("greater", None, 70, 100),
        ("greater", 0, 0, 16),
    ],
)
def test_I11_an_estimate_has_the_size_of_the_request(
    take: str, asked: int | None, size: int, units: int
) -> None:
    found = asking(asked, size, f"{SUM}, take: {take}")
    assert found.route.cost == (("tokens", units),)
    assert [claim.cost for claim in found.claims] == [units]
    assert found.defaulted == (() if asked is not None else (("tokens", Unreadable.MISSING),))


def test_the_size_alone_is_an_estimate() -> None:
    reserve = "bytes_per_unit: 4, min: 3"
    found = asking(9, 9, reserve)
    assert (found.route.cost, found.defaulted) == ((("tokens", 9),), ())
    chat = parse((FILE % (reserve, EVENTS)).encode(), "p").entitlements["p", "chat"]
    assert chat.route.cost == (("tokens", 3),)
    partial = Reading({}, {"tokens": Unreadable.TOO_LARGE}, None, {"tokens": 65_536})
    found = with_estimates(chat, partial)
    assert found.route.cost == (("tokens", 65_536),)
    assert found.defaulted == (("tokens", Unreadable.TOO_LARGE),)


@pytest.mark.parametrize(
    ("otherwise", "events", "size", "units"),
    [
        ("units_per_event: 2", 10, 4_000, 20),
        ("units_per_event: 2", 0, 4_000, 0),
        ("bytes_per_unit: 4", 10, 4_001, 1_001),
        (EVENTS, 10, 4_000, 20),
        (EVENTS, 0, 4_000, 1_000),
        (EVENTS, 0, 0, 0),
    ],
)
def test_events_of_a_stream_count_and_else_its_bytes(
    otherwise: str, events: int, size: int, units: int
) -> None:
    [(meter, fallback)] = asking(1, 1, otherwise=otherwise).fallbacks
    assert (meter, fallback.units(events, size)) == ("tokens", units)


@pytest.mark.parametrize(
    ("at_least", "asked", "size", "counted", "units"),
    [
        ("estimate", 1, 50, 40, 90),  # the prompt, and what has passed of the answer
        ("estimate", 8_000, 50, 40, 8_050),
        ("min", 8_000, 50, 40, 90),
        ("min", 8_000, 0, 0, 16),
        ("min", 1, 0, 20, 20),
    ],
)
def test_I11_the_greater_of_what_passed_and_the_estimate_counts(
    at_least: str, asked: int, size: int, counted: int, units: int
) -> None:
    found = asking(asked, size, otherwise=f"{EVENTS}, at_least: {at_least}")
    for reason in (OutcomeReason.OK, OutcomeReason.CLIENT_GONE):
        late = late_costs(found, ended(counted, reason))
        assert late == Reading({"tokens": units}, {"tokens": TRUNCATED})
        assert [claim.cost for claim in actual_claims(found, ended(counted, reason))] == [units]
        assert estimated_costs(found, late) == {"tokens": TRUNCATED}


@pytest.mark.parametrize(("value", "counted", "units"), [(30, 40, 40), (50, 40, 50)])
def test_a_value_that_may_be_too_low_is_raised_to_what_passed(
    value: int, counted: int, units: int
) -> None:
    for reason in (OutcomeReason.CLIENT_GONE, OutcomeReason.UPSTREAM_BROKEN):
        late = late_costs(asking(8_000, 9), ended(counted, reason, value))
        assert (late.values, late.unreadable) == ({"tokens": units}, {"tokens": TRUNCATED})


@pytest.mark.parametrize(
    "reason",
    [OutcomeReason.UPSTREAM_BROKEN, OutcomeReason.UPSTREAM_TIMEOUT, OutcomeReason.CANCELLED],
)
def test_a_response_that_the_api_broke_off_costs_what_passed(reason: OutcomeReason) -> None:
    late = late_costs(asking(8_000, 9), ended(40, reason))
    assert (late.values, late.unreadable) == ({"tokens": 40}, {"tokens": TRUNCATED})
    none = late_costs(asking(8_000, 9), ended(None, reason))
    assert (none.values, none.unreadable) == ({"tokens": 0}, {})


COUNTS = st.integers(0, 100_000)


@given(
    COUNTS | st.none(),
    COUNTS,
    COUNTS,
    st.sampled_from(["sum", "greater"]),
    st.sampled_from(["estimate", "min"]),
    st.sampled_from([OutcomeReason.OK, OutcomeReason.CLIENT_GONE]),
)
def test_I11_no_request_costs_less_than_what_passed_of_it(
    asked: int | None, size: int, counted: int, take: str, at_least: str, reason: OutcomeReason
) -> None:
    found = asking(asked, size, f"{SUM}, take: {take}", f"{EVENTS}, at_least: {at_least}")
    outcome = ended(counted, reason)
    late = late_costs(found, outcome)
    units = late.values["tokens"]
    assert units >= max(counted, 16)
    if take == "sum":
        assert units >= size + counted
    if at_least == "estimate":
        assert units >= dict(found.route.cost)["tokens"]
    assert late_costs(found, outcome._replace(reading=late)) == late  # what is settled stays
