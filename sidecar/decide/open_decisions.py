"""Allowed requests that their gateways have not settled yet, and the settlements of late.

Both are bounded: beyond the bound, the oldest one goes.
"""

from collections import OrderedDict
from typing import Final, Generic, TypeVar

from sidecar.gate import Admission

REMEMBERED: Final = 10_000  # settlements that can be repeated

_S = TypeVar("_S")


class OpenDecisions(Generic[_S]):
    """The open decisions by id, the oldest first; and the last settlements, for repeated reports.

    `most`: the number of open decisions. `timeout`: seconds until a decision is overdue.
    """

    def __init__(self, most: int, timeout: float) -> None:
        self._most = most
        self._timeout = timeout
        self._open: OrderedDict[str, tuple[Admission, float]] = OrderedDict()
        self._settled: OrderedDict[str, _S] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, decision_id: str, admission: Admission, now: float) -> Admission | None:
        """Add a decision. Returns the oldest one if it has to go for it. `now`: loop time."""
        self._open[decision_id] = (admission, now + self._timeout)
        return self._pop_oldest() if len(self._open) > self._most else None

    def take(self, decision_id: str) -> Admission | None:
        """Take an open decision, so that it is settled once."""
        found = self._open.pop(decision_id, None)
        return None if found is None else found[0]

    def take_overdue(self, now: float) -> Admission | None:
        """Take the oldest decision if it is overdue."""
        for _, due in self._open.values():
            return self._pop_oldest() if due <= now else None
        return None

    def take_any(self) -> Admission | None:
        """Take the oldest decision."""
        return self._pop_oldest() if self._open else None

    def _pop_oldest(self) -> Admission:
        return self._open.popitem(last=False)[1][0]

    def remember(self, decision_id: str, settled: _S) -> None:
        """Keep a settlement for repeated reports."""
        self._settled[decision_id] = settled
        if len(self._settled) > REMEMBERED:
            self._settled.popitem(last=False)

    def settled(self, decision_id: str) -> _S | None:
        """The settlement of a decision; None if it is unknown."""
        return self._settled.get(decision_id)
