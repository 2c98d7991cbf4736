"""W3C Trace Context: parents, and the choice of new traces."""

from sidecar.clock import Clock
from sidecar.core.trace_context import TraceParent, is_sampled, parse_parent

TRACE, SPAN = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


def test_the_sampled_flag_is_the_lowest_bit() -> None:
    for flags, sampled in ((b"00", False), (b"01", True), (b"02", False), (b"ff", True)):
        parent = parse_parent([b"00-%b-%b-%b" % (TRACE, SPAN, flags)])
        assert parent == TraceParent(TRACE, SPAN, flags)
        assert parent.sampled is sampled


def test_several_parents_do_not_count() -> None:
    value = b"00-%b-%b-01" % (TRACE, SPAN)
    assert parse_parent([]) is None
    assert parse_parent([value, value]) is None
    assert parse_parent([value + b"-more"]) is None  # version 00 has four fields


def test_the_ratio_of_request_ids_is_sampled() -> None:
    """The time and the constant bits of a UUIDv7 do not count: they would sample all or none."""
    clock = Clock()
    ids = [clock.request_id(1_700_000_000_000_000_000).replace("-", "") for _ in range(4_000)]
    for ratio in (0.1, 0.5, 0.9):
        share = sum(is_sampled(one, ratio) for one in ids) / len(ids)
        assert abs(share - ratio) < 0.05
    assert not any(is_sampled(one, 0.0) for one in ids)
    assert all(is_sampled(one, 1.0) for one in ids)


def test_a_higher_ratio_samples_what_a_lower_one_does() -> None:
    clock = Clock()
    ids = [clock.request_id(clock.now_ns()).replace("-", "") for _ in range(1_000)]
    assert {one for one in ids if is_sampled(one, 0.2)} <= {
        one for one in ids if is_sampled(one, 0.4)
    }
