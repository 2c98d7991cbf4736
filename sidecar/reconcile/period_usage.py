"""One counter in one period, by the events."""

import dataclasses
from dataclasses import dataclass
from typing import Final

from sidecar.core.model import MICRO, QuotaLimit

MARGIN_US: Final = 2 * MICRO


@dataclass(slots=True)
class Row:
    """Units that the events tell of, from `start` to `end`.

    `units`: all of them. Of those: `edge`, so near the start that they may have been counted in
    the period before; `guessed`, under a plan file that is not at hand. Beside them: `before`, so
    near before the start that they may have been counted in this one; `elsewhere`, which a plan
    file that is not at hand may have counted here; `refunded`.

    `fresh` came since the counter was read, and of those `arrived` may have been charged by then.
    `told`: of calls whose reservation was open, by id; `fresh_ids` of those came since.
    """

    account: str
    field: str
    limit: QuotaLimit
    key: str | None
    start: int
    end: int
    units: int = 0
    edge: int = 0
    guessed: int = 0
    before: int = 0
    elsewhere: int = 0
    refunded: int = 0
    fresh: int = 0
    arrived: int = 0
    told: dict[str, int] = dataclasses.field(default_factory=dict)
    fresh_ids: set[str] = dataclasses.field(default_factory=set)

    def may_hold(self, at_us: int) -> bool:
        """Whether a call of this instant may have been counted here."""
        return self.start - MARGIN_US <= at_us < self.end

    def add(self, at_us: int, units: int, *, certain: bool, read_us: int | None) -> None:
        """A call that counted here. `read_us`: when the counter was read, if it was."""
        if at_us < self.start:
            self.before += units
            return
        self.units += units
        if at_us < self.start + MARGIN_US:
            self.edge += units
        if not certain:
            self.guessed += units
        if read_us is not None:
            self.fresh += units
            if at_us < read_us + MARGIN_US:
                self.arrived += units

    def read(self) -> None:
        """The counter is read: what comes from now on is fresh."""
        self.fresh = self.arrived = 0
        self.fresh_ids.clear()
