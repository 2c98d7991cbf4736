"""How many sidecars there are: each writes itself into Redis every second."""

from typing import Any, Final, Literal

from sidecar.core.model import MICRO
from sidecar.errors import StoreUnavailable
from sidecar.stores import keys
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import ReplyError, encode
from sidecar.stores.local.clock import StoreClock
from sidecar.stores.scripts import load

LIFETIME_US: Final = 5 * MICRO  # one that is not heard of for so long is gone

State = Literal["well", "owing", "leaving"]
Heard = Literal["told", "refused", "silent"]  # refused: Redis answers, and takes no writes


class Heartbeat:
    """`alive`: sidecars when Redis last told, this one included, and for a lifetime not less than
    it told before: a Redis that starts empty hears of them one after the other. `ready`: how many
    have been heard of since the instant that was asked for, and owe nothing."""

    def __init__(self, wire: Connection, prefix: str, own_id: str, time: StoreClock) -> None:
        self.alive = 1
        self.ready = 0
        self._until_us = 0  # `alive` does not fall before
        self._wire = wire
        self._id = own_id
        self._time = time
        self._script = load("limits/beat")
        self._names = keys.sidecars(prefix), keys.owing(prefix)
        self._slot = slot_of(self._names[0])

    async def beat(self, state: State, since_us: int = 0) -> Heard:
        """Tell that this sidecar is alive, and hear of the others."""
        command = encode(
            b"EVALSHA", self._script.sha, 2, *self._names, self._id, state, LIFETIME_US, since_us
        )
        try:
            reply: Any = await self._wire.execute(command, None, self._slot)
            if isinstance(reply, ReplyError) and reply.text.startswith("NOSCRIPT"):
                load_it = encode(b"SCRIPT", b"LOAD", self._script.text)
                await self._wire.execute(load_it, None, self._slot)
                reply = await self._wire.execute(command, None, self._slot)
        except StoreUnavailable:
            return "silent"
        if not isinstance(reply, list) or len(reply) != 3:
            return "refused"
        if state != "leaving":
            self._hear(*reply)
        return "told"

    def _hear(self, alive: int, now_us: int, ready: int) -> None:
        self._time.heard(now_us)
        self.ready = ready
        if alive >= self.alive or now_us >= self._until_us:
            self.alive = max(1, alive)
            self._until_us = now_us + LIFETIME_US
