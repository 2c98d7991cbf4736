"""The RateLimit fields of draft-ietf-httpapi-ratelimit-headers-11."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.kinds import MICRO, UNBOUNDED, QuotaLimit, RateLimit
from sidecar.core.model import Claim
from sidecar.core.reasons import LimitStatus
from sidecar.core.refusals.ratelimit_fields import legacy_fields, policy_field, ratelimit_field

NOW = 1_790_000_000_000_000
MEMBER = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"((?:;[a-z]+=-?\d{1,15})*)')


def parse(field: bytes) -> dict[str, dict[str, int]]:
    """Parse a list of strings with integer parameters, after RFC 9651, section 4.2."""
    text, at = field.decode("ascii"), 0
    members: dict[str, dict[str, int]] = {}
    while at < len(text):
        found = MEMBER.match(text, at)
        assert found, text[at:]
        pairs = (pair.split("=") for pair in found[2].split(";") if pair)
        members[re.sub(r"\\(.)", r"\1", found[1])] = {name: int(value) for name, value in pairs}
        at = found.end()
        if at < len(text):
            assert text[at : at + 2] == ", "
            at += 2
    return members


def a_rate(name: str = "per-second", units: int = 5, window_us: int = MICRO) -> RateLimit:
    return RateLimit(name, "requests", units, window_us, 10, (5, 1))


def a_quota(name: str = "monthly", period: str = "month", units: int = 1000) -> QuotaLimit:
    return QuotaLimit(name, "requests", units, period, units)  # type: ignore[arg-type]


def a_standing(name: str = "monthly", left: int = 0, reset_us: int | None = None) -> LimitStatus:
    return LimitStatus(Claim(a_quota(name), 1, False), 1000, 1000 - left, left, reset_us)


def test_policies_are_listed_as_the_draft_writes_them() -> None:
    guard = a_rate("critical", 100)
    field = policy_field([a_rate(), guard, a_quota()], guard)
    assert field == b'"per-second";q=5;w=1, "monthly";q=1000;w=2592000'


def test_without_limits_the_policy_is_empty() -> None:
    assert policy_field([]) == b""


@pytest.mark.parametrize(
    ("limit", "q", "w"),
    [
        (a_rate(units=300, window_us=60 * MICRO), 300, 60),
        (a_rate(units=5, window_us=100_000), 50, 1),
        (a_rate(units=3, window_us=1_500_000), 4, 2),
        (a_quota(period="hour"), 1000, 3600),
        (a_quota(period="day"), 1000, 86_400),
        (a_quota(period="week"), 1000, 604_800),
        (a_quota(period="cycle"), 1000, 2_592_000),
        (a_quota(units=UNBOUNDED), 999_999_999_999_999, 2_592_000),
    ],
)
def test_a_policy_is_units_per_whole_seconds(limit: RateLimit | QuotaLimit, q: int, w: int) -> None:
    assert parse(policy_field([limit])) == {limit.id: {"q": q, "w": w}}


@pytest.mark.parametrize(
    ("left", "reset_us", "field"),
    [
        (0, NOW + 1_209_600 * MICRO, b'"monthly";r=0;t=1209600'),
        (7, NOW + 1, b'"monthly";r=7;t=1'),
        (7, NOW + MICRO, b'"monthly";r=7;t=1'),
        (7, NOW - MICRO, b'"monthly";r=7;t=0'),
        (7, None, b'"monthly";r=7'),
        (UNBOUNDED, None, b'"monthly";r=999999999999999'),
    ],
)
def test_a_status_is_what_is_left_and_until_when(
    left: int, reset_us: int | None, field: bytes
) -> None:
    assert ratelimit_field(a_standing(left=left, reset_us=reset_us), NOW) == field


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
       st.integers(0, UNBOUNDED), st.none() | st.integers(0, UNBOUNDED))  # fmt: skip
def test_fields_are_valid_for_any_name_of_a_limit(
    name: str, left: int, reset_us: int | None
) -> None:
    members = parse(ratelimit_field(a_standing(name, left, reset_us), NOW))
    assert list(members) == [name]
    assert list(parse(policy_field([a_quota(name), a_rate("x" + name)]))) == [name, "x" + name]


@pytest.mark.parametrize("name", ["é", "a\r\nSet-Cookie: b", "\x00"])
def test_a_name_that_a_header_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        policy_field([a_quota(name)])


def test_the_older_fields_have_the_same_numbers() -> None:
    assert legacy_fields(a_standing(left=3, reset_us=NOW + 1), NOW) == (
        (b"X-RateLimit-Limit", b"1000"),
        (b"X-RateLimit-Remaining", b"3"),
        (b"X-RateLimit-Reset", b"1790000001"),
    )
    assert legacy_fields(a_standing(left=3), NOW)[2] == (b"X-RateLimit-Reset", b"1790000000")
