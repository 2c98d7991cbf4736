"""How long a grant lasts, and the record of it in the outbox."""

from datetime import UTC, datetime

import pytest
import redis

from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Pack
from sidecar.core.periods import bounds
from sidecar.stores import keys
from sidecar.stores.admin import Admin
from sidecar.stores.changes import TTL_S

ACME = Account("acme", "pro")
END_US = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * MICRO
ROOM_US = 60 * MICRO  # that a slow test may need


def a_pack(lasts: str | int) -> Pack:
    return Pack("boost", "monthly", "requests", 9, lasts)


@pytest.mark.parametrize("span_s", [60, 5_400, 30 * 86_400])
def test_a_grant_for_a_time_ends_after_it(valkey_url: str, span_s: int) -> None:
    with Admin(valkey_url, "qs") as admin:
        before_us = admin.now_us()
        granted = admin.grant(ACME, a_pack(f"{span_s}s"), "g1")
        span_us = granted.expires_us - before_us
    assert span_s * MICRO <= span_us < span_s * MICRO + ROOM_US


def test_a_grant_to_a_day_or_for_a_period_ends_with_it(valkey_url: str) -> None:
    with Admin(valkey_url, "qs") as admin:
        window = bounds("month", ACME.timezone, ACME.anchor, admin.now_us())
        assert admin.grant(ACME, a_pack(END_US), "g1").expires_us == END_US
        expires_us = admin.grant(ACME, a_pack("month"), "g2").expires_us
    assert expires_us in window[1:]  # the month may end during the test


def test_I9_the_record_of_a_grant_lives_as_long_as_other_records(valkey_url: str) -> None:
    with Admin(valkey_url, "qs") as admin:
        admin.grant(ACME, a_pack("month"), "g1")
    with redis.Redis.from_url(valkey_url) as client:
        left_ms = client.pttl(keys.outbox("qs", ACME.id))
    assert isinstance(left_ms, int)
    assert TTL_S * 1_000 - ROOM_US // 1_000 < left_ms <= TTL_S * 1_000
