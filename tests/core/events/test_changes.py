"""Events of changes: what a command records, and the event that any sidecar makes of it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.events.changes import (
    PLAN,
    SET,
    STATUS,
    account_changes,
    event_of,
    grant_change,
    grant_identity,
    key_change,
    record,
    record_body,
)
from sidecar.core.model import Pack

AT_US = 1_795_422_600_123_456  # 2026-11-23T08:30:00.123Z
THEN_US = "1796083200000000"  # 2026-12-01T00:00:00Z
SCHEDULED = {"plan": "pro", "then": "free", "then_us": THEN_US}
NOT_SCHEDULED = {"plan": "pro", "then": "", "then_us": ""}
NEXT = {"plan": "free", "at": "2026-12-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({}, {"plan": "pro"}, [(PLAN, {"from": None, "to": "pro"})]),
        ({"plan": "pro"}, NOT_SCHEDULED, []),
        ({"plan": "pro"}, {"plan": "free"}, [(PLAN, {"from": "pro", "to": "free"})]),
        ({"plan": "pro"}, SCHEDULED, [(PLAN, {"from": "pro", "to": "pro", "next": NEXT})]),
        (SCHEDULED, NOT_SCHEDULED, [(PLAN, {"from": "pro", "to": "pro"})]),
        (
            {"plan": "pro"},
            {"plan": "pro", "status": "suspended"},
            [(STATUS, {"from": "active", "to": "suspended"})],
        ),
        ({"plan": "pro"}, {"plan": "pro", "status": "active"}, []),
        (
            {"plan": "pro", "status": "suspended"},
            {
                "plan": "free",
                "status": "active",
                "timezone": "Europe/Paris",
                "anchor": "2026-01-15",
            },
            [
                (PLAN, {"from": "pro", "to": "free"}),
                (STATUS, {"from": "suspended", "to": "active"}),
                (
                    SET,
                    {
                        "from": {"timezone": None, "anchor": None},
                        "to": {"timezone": "Europe/Paris", "anchor": "2026-01-15"},
                    },
                ),
            ],
        ),
        ({"plan": "pro", "teams": "ads=40%"}, {"plan": "pro", "teams": "ads=40%"}, []),
    ],
)
def test_14_each_change_of_an_account_has_one_event_and_the_same_values_none(
    before: dict[str, str], after: dict[str, str], changes: list[object]
) -> None:
    assert account_changes(before, after) == changes


def test_the_url_of_a_webhook_is_not_in_an_event() -> None:
    after = {"plan": "pro", "webhook": "https://user:secret@example.com/hook?token=secret"}
    [(kind, data)] = account_changes({"plan": "pro"}, after)
    assert (kind, data) == (SET, {"from": {"webhook": False}, "to": {"webhook": True}})


def test_14_a_grant_is_an_event_with_all_that_an_invoice_needs() -> None:
    pack = Pack("boost", "monthly", "requests", 10_000, "month", "5 USD")
    body = record_body(
        grant_identity("acme", "order-1"), grant_change(pack, "order-1", "pro", "sha256:ab")
    )
    assert event_of(f"{AT_US} {THEN_US} {body}", "acme", "/sidecar/accounts/qs") == {
        "specversion": "1.0",
        "id": "grant/acme/order-1",
        "source": "/sidecar/accounts/qs",
        "type": "account.grant.v1",
        "subject": "acme",
        "time": "2026-11-23T08:30:00.123Z",
        "clock": "redis",
        "datacontenttype": "application/json",
        "data": {
            "grant": "order-1", "pack": "boost", "limit": "monthly", "meter": "requests",
            "units": 10_000, "price": "5 USD", "plan": "pro", "plan_version": "sha256:ab",
            "expires_at": "2026-12-01T00:00:00Z",
        },
    }  # fmt: skip


@given(
    at_us=st.integers(0, 4_000_000_000_000_000), identity=st.text(), kind=st.text(),
    name=st.text(), value=st.text() | st.integers() | st.none(),
)  # fmt: skip
def test_a_record_is_read_as_it_was_written(
    at_us: int, identity: str, kind: str, name: str, value: object
) -> None:
    text = record(at_us, record_body(identity, (kind, {name: value})))
    event = event_of(text.encode().decode(), "acme", "/s")
    assert (event["id"], event["type"], event["data"]) == (identity, kind, {name: value})
    assert json.loads(json.dumps(event)) == event


def test_an_empty_member_of_a_key_is_left_out() -> None:
    assert key_change("created", "k1", team="", expires_at=None)[1] == {
        "action": "created",
        "key": "k1",
    }


@pytest.mark.parametrize(
    "text",
    ["", "1 2", "a 0 []", '1 0 ["id"]', '1 0 ["id","kind",[]]', '1 0 [1,"kind",{}]', "1 0 {",
     '1 x ["id","kind",{}]'],
)  # fmt: skip
def test_what_is_not_a_record_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        event_of(text, "acme", "/s")
