"""Units of events that came after a counter was read, until it is read again."""

from sidecar.core.kinds import MICRO
from sidecar.reconcile.period_usage import PeriodUsage
from tests.support.builders import a_quota


def test_after_another_reading_of_a_counter_no_event_is_fresh() -> None:
    usage = PeriodUsage("acme", "q/monthly", a_quota(9), None, 0, 100 * MICRO)
    usage.mark_read()
    usage.add(50 * MICRO, 5, certain=True, read_us=50 * MICRO)
    usage.fresh_ids.add("id-1")
    assert (usage.fresh, usage.arrived, usage.units) == (5, 5, 5)
    usage.mark_read()
    assert (usage.fresh, usage.arrived, usage.units, usage.fresh_ids) == (0, 0, 5, set())
    usage.add(60 * MICRO, 2, certain=True, read_us=50 * MICRO)
    assert (usage.fresh, usage.arrived, usage.units) == (2, 0, 7)
