"""The number of sidecars: each one writes itself into Redis every second."""

from typing import Final, Literal

from sidecar.core.kinds import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.local.clock import StoreClock
from sidecar.stores.scripts import ScriptRefused, run

LIFETIME_US: Final = 5 * MICRO  # a sidecar counts as alive for so long after its last heartbeat

State = Literal["charged", "uncharged", "leaving"]
BeatResult = Literal["ok", "refused", "no_answer"]  # refused: Redis answers but takes no writes


class Heartbeat:
    """This sidecar's heartbeat, and what Redis answers about the others.

    `alive` is the number of sidecars, this one included. It falls only `LIFETIME_US` after it
    was last confirmed, since the sidecars find a Redis that starts empty one after the other.
    `ready` is the number of those that have charged their journals since a given instant.
    """

    def __init__(self, wire: Connection, prefix: str, own_id: str, clock: StoreClock) -> None:
        self.alive = 1
        self.ready = 0
        self._falls_after_us = 0  # `alive` does not fall before
        self._wire = wire
        self._id = own_id
        self._clock = clock
        self._names = keys.sidecars(prefix), keys.uncharged_sidecars(prefix)

    async def beat(self, state: State, since_us: int = 0) -> BeatResult:
        """Send a heartbeat, and update `alive`, `ready` and the clock."""
        try:
            reply = await run(
                self._wire, "limits/beat", self._names, self._id, state, LIFETIME_US, since_us
            )
        except ScriptRefused:
            return "refused"
        except StoreUnavailable:
            return "no_answer"
        if len(reply) != 3:
            return "refused"
        if state != "leaving":
            self._update(*reply)
        return "ok"

    def _update(self, alive: int, now_us: int, ready: int) -> None:
        self._clock.set(now_us)
        self.ready = ready
        if alive >= self.alive or now_us >= self._falls_after_us:
            self.alive = max(1, alive)
            self._falls_after_us = now_us + LIFETIME_US
