"""The recorded units of one counter in one period."""

import dataclasses
from dataclasses import dataclass
from typing import Final

from sidecar.core.kinds import MICRO, PeriodLimit

MARGIN_US: Final = 2 * MICRO  # the clocks of Redis and a sidecar may differ by this much


@dataclass(slots=True)
class PeriodUsage:
    """The units that the events charge to one counter from `start` to `end` (µs).

    `units` is their sum. It includes `edge`, which is so near the start that Redis may have
    counted it in the previous period, and `uncertain`, charged under an unknown plan file.

    `units` excludes `before`, which is so near before the start that Redis may have counted it
    here, `elsewhere`, which an unknown plan file may have counted here, and `refunded`.

    `fewest`: the units of the smallest quota that its requests were counted against, None without
    requests. A plan may have changed since.

    `overage`: the overage of this quota that the events have reported; None if an older event has
    the overage of several quotas in one number.

    `fresh` are units whose events came after the counter was read; Redis may have charged
    `arrived` of them before. `recorded`: units by id of requests whose reservation was open.
    `fresh_ids`: those among them whose events came after the counter was read.
    """

    account: str
    field: str
    limit: PeriodLimit
    key: str | None
    start: int
    end: int
    units: int = 0
    edge: int = 0
    uncertain: int = 0
    before: int = 0
    elsewhere: int = 0
    refunded: int = 0
    fresh: int = 0
    arrived: int = 0
    fewest: int | None = None
    overage: int | None = 0
    recorded: dict[str, int] = dataclasses.field(default_factory=dict)
    fresh_ids: set[str] = dataclasses.field(default_factory=set)

    def may_include(self, at_us: int) -> bool:
        """Whether Redis may have counted a request of this instant in this period."""
        return self.start - MARGIN_US <= at_us < self.end

    def add(self, at_us: int, units: int, *, certain: bool, read_us: int | None) -> None:
        """Add the units of a request. `read_us`: when the counter was read; None: not yet."""
        if at_us < self.start:
            self.before += units
            return
        self.units += units
        if at_us < self.start + MARGIN_US:
            self.edge += units
        if not certain:
            self.uncertain += units
        if read_us is not None:
            self.fresh += units
            if at_us < read_us + MARGIN_US:
                self.arrived += units

    def add_overage(self, at_us: int, units: int | None) -> None:
        """Add the overage that a request's event has reported; None if it is not known."""
        if at_us < self.start:
            return
        if self.overage is None or units is None:
            self.overage = None
        else:
            self.overage += units

    def mark_read(self) -> None:
        """Mark the counter as read now: events from now on are fresh."""
        self.fresh = self.arrived = 0
        self.fresh_ids.clear()
