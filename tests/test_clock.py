"""Identifiers and timestamps in events and headers."""

import uuid

import pytest

from sidecar.clock import Clock

NOW = 1_795_509_000_123_456_789  # 2026-11-24T08:30:00.123Z


def test_ids_are_unique_uuids_of_version_7() -> None:
    clock = Clock()
    ids = [clock.request_id(NOW) for _ in range(5_000)]
    assert len(set(ids)) == len(ids)
    for text in ids:
        one = uuid.UUID(text)
        assert str(one) == text
        assert (one.version, one.variant) == (7, uuid.RFC_4122)
        assert one.int >> 80 == NOW // 1_000_000


def test_ids_of_two_clocks_differ() -> None:
    assert Clock().request_id(NOW)[14:] != Clock().request_id(NOW)[14:]


def test_ids_sort_by_time() -> None:
    clock = Clock()
    ids = [clock.request_id(NOW + number * 1_000_000) for number in range(2_000)]
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("later_ns", "text"),
    [
        (0, "2026-11-24T08:30:00.123Z"),
        (543_210, "2026-11-24T08:30:00.123Z"),
        (543_211, "2026-11-24T08:30:00.124Z"),
        (877_000_000, "2026-11-24T08:30:01.000Z"),
        (-124_000_000, "2026-11-24T08:29:59.999Z"),
    ],
)
def test_timestamps_have_milliseconds(later_ns: int, text: str) -> None:
    clock = Clock()
    clock.timestamp(NOW)
    assert clock.timestamp(NOW + later_ns) == text
    assert clock.timestamp(NOW) == "2026-11-24T08:30:00.123Z"
