"""Lua scripts: loading, running, and the arguments and replies that they share.

Redis knows a script by the SHA-1 of its text, until it restarts. A command that it answers with
NOSCRIPT has changed nothing, so the script is loaded and the command sent again.
"""

import asyncio
import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.errors import StoreUnavailable
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.link import Late, Link, ReplyError, encode, ignore
from sidecar.stores.connection.slots import slot_of

SHORT: Final = 2  # numbers per claim in a reply
FULL: Final = 8  # numbers per claim if any claim has more to report
OTHER_PERIOD: Final = -1  # status of a reply: Redis time is outside the periods that were sent


class ScriptRefused(StoreUnavailable):
    """Redis answered a script with an error, or not as the script would."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the SHA-1 under which Redis knows it."""

    name: str
    text: bytes
    sha: bytes

    def load_command(self) -> bytes:
        """The command that loads the script into Redis."""
        return encode(b"SCRIPT", b"LOAD", self.text)


class ClaimNumbers(NamedTuple):
    """The numbers of one claim, as the header of `lua/limits/reserve.lua` names them.

    Rates: `cost` and `cap` in micro-units; `a` micro-units come back every `b` µs.
    Quotas: `cost` and `cap` in units; `a` to `d` are the period's start, its end, the next
    period's end and the previous period's start, in µs.
    `counts`: what is counted, see `core/counting/counts.py`; 0 for slots.
    Team shares: as quotas; `units` are guaranteed, `rollover` is 1 if the team lends.
    Numbers that a kind does not have are 0.
    """

    cost: int
    cap: int
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    units: int = 0
    rollover: int = 0
    counts: int = 0

    def packed(self) -> bytes:
        """The numbers as little-endian doubles, which Lua reads with one function."""
        return struct.pack("<9d", *self)


class ClaimArguments(NamedTuple):
    """One claim in ARGV. Names and order are those of the header of `lua/limits/reserve.lua`."""

    kind: str  # "rate", "quota", "team" or "slots"
    field: str
    force: int  # 0: enforced; 1: counted even beyond the cap; 2: counted if it fits, never refuses
    numbers: bytes
    notices: str = ""  # quotas: "80,90,100"; team shares: the account's other teams


def read_state(packed: bytes) -> tuple[int, int, int, int]:
    """A limit's field in the account's hash: used, since (µs), notified (percent), carried over."""
    used, since, notified, carried = struct.unpack_from("<4d", packed)
    return int(used), int(since), int(notified), int(carried)


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua`, such as "limits/reserve", after the parts that it shares."""
    folder = files("sidecar.stores") / "lua"

    def part(path: str) -> bytes:
        return (folder / f"{path}.lua").read_bytes()

    text = part("time")
    if name.startswith("limits/"):
        text += part("limits/arithmetic")
        text += b"\nmake_rare = function()\n%b\nend\n" % part("limits/rare")
    if name.startswith("jobs/"):
        text += part("jobs/bytes")
    text += part(name)
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(name, text, digest.encode())


def answer_of(reply: list[int], claims: int) -> Answer:
    """The reply of a script on so many claims, as a value."""
    if len(reply) == 2 + FULL * claims:
        details = tuple(
            QuotaDetail(*reply[at + 2 : at + FULL]) for at in range(2, len(reply), FULL)
        )
        used, ends = tuple(reply[2::FULL]), tuple(reply[3::FULL])
        return Answer(reply[0] == 1, reply[1], used, ends, details)
    return Answer(reply[0] == 1, reply[1], tuple(reply[2::SHORT]), tuple(reply[3::SHORT]))


async def run(
    wire: Connection, name: str, keys: tuple[str, ...], *arguments: bytes | str | int
) -> list[Any]:
    """Run a script on keys of one slot; the reply. Raises StoreUnavailable."""
    script = load(name)
    command = encode(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
    return await run_command(wire, script, command, slot_of(keys[0]))


async def run_command(
    wire: Connection, script: Script, command: bytes, slot: int, late: Late | None = None
) -> list[Any]:
    """Send a script's command; the reply.

    `late` gets a reply that comes after a timeout or a cancellation. Raises ScriptRefused if
    Redis answers with an error, StoreUnavailable if it does not answer in time.
    """
    reply = await _reply(wire, command, slot, late)
    if _script_missing(reply):
        loading = wire.execute(script.load_command(), None, slot)
        loading.add_done_callback(ignore)
        # A failed load does not matter if the script runs: its effect must not get lost.
        reply = await _reply(wire, command, slot, late)
        if isinstance(reply, ReplyError):
            reply = _error_of(loading) or reply
    if isinstance(reply, ReplyError):
        raise ScriptRefused(f"Redis refused the script {script.name}: {reply.text}")
    if not isinstance(reply, list) or len(reply) < 2:
        raise ScriptRefused(f"Redis answered the script {script.name} with an unknown reply")
    return reply


async def _reply(wire: Connection, command: bytes, slot: int, late: Late | None) -> Any:
    future = wire.execute(command, late, slot)
    try:
        return await future
    except asyncio.CancelledError:
        pass_late(future, late)
        raise


def pass_late(future: "asyncio.Future[Any]", late: Late | None) -> None:
    """Give `late` the reply that arrived just as its task was cancelled, if one did."""
    if late is not None and not future.cancelled() and future.exception() is None:
        late(future.result(), None)


def _script_missing(reply: Any) -> bool:
    return isinstance(reply, ReplyError) and reply.text.startswith("NOSCRIPT")


def _error_of(loading: "asyncio.Future[Any]") -> ReplyError | None:
    if not loading.done() or loading.cancelled() or loading.exception() is not None:
        return None
    reply = loading.result()
    return reply if isinstance(reply, ReplyError) else None


class UntilConfirmed:
    """A script's command that counts once, however often it is sent, until Redis confirms it.

    A subclass builds the command, and sends it again some time after `on_failure`.
    """

    def __init__(self, wire: Connection, script: Script, slot: int) -> None:
        self.in_flight = False
        self.done = False  # confirmed or given up: further replies are ignored
        self._wire = wire
        self._script = script
        self._slot = slot

    def command(self, now_us: int) -> bytes:
        """The command for periods at `now_us`, in Redis time; 0: the last known periods."""
        raise NotImplementedError

    def on_confirmed(self, reply: list[int]) -> None:
        """Redis has run the command, now or before."""
        raise NotImplementedError

    def on_failure(self) -> None:
        """No usable reply came; the command may have been run."""
        raise NotImplementedError

    def send(self, now_us: int = 0) -> None:
        """Send the command now."""
        self.in_flight = True
        future = self._wire.execute(self.command(now_us), self._read_late, self._slot)
        future.add_done_callback(self._read_future)

    def _read_future(self, future: "asyncio.Future[Any]") -> None:
        if future.cancelled() or isinstance(future.exception(), StoreUnavailable):
            self._fail()
        else:
            self._read(future.result())

    def _read_late(self, reply: Any, link: Link | None) -> None:
        # A server whose connection was set aside may have lost by now what it reports.
        if link is None or not link.aside:
            self._read(reply)

    def _read(self, reply: Any) -> None:
        if self.done:
            return  # sent twice, and confirmed by the other reply
        if _script_missing(reply):
            self._wire.tell(self._script.load_command(), self._slot)
            self.send()
        elif not isinstance(reply, list) or len(reply) < 2:
            self._fail()
        elif reply[0] == OTHER_PERIOD:
            self.send(reply[1])
        else:
            self.in_flight, self.done = False, True
            self.on_confirmed(reply)

    def _fail(self) -> None:
        if not self.done:
            self.in_flight = False
            self.on_failure()
