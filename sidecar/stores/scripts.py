"""The Lua scripts as they are sent, and what they are told of each claim."""

import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

from sidecar.core.answers import Answer, QuotaDetail
from sidecar.errors import StoreUnavailable
from sidecar.stores.connection.connect import Connection
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import ReplyError, encode

FEW: Final = 2  # numbers per claim in a reply
ALL: Final = 6  # and when there is more to say


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 under which Redis knows it."""

    name: str
    text: bytes
    sha: bytes


class ClaimNumbers(NamedTuple):
    """The numbers of one claim, as the header of `lua/limits/reserve.lua` names them.

    Rates: `cost` and `cap` in micro-units, `a` micro-units come back every `b` µs.
    Quotas: `cost` and `cap` in units; start, end, next end of the period and start of the one
    before in µs. What a kind does not have is 0. Teams: as quotas, with what is guaranteed as
    `units`, and 1 as `rollover` if the team lends.
    """

    cost: int
    cap: int
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    units: int = 0
    rollover: int = 0

    def packed(self) -> bytes:
        """As doubles: Lua takes all of them with one call."""
        return struct.pack("<8d", *self)


class ClaimArguments(NamedTuple):
    """One claim in ARGV; names and order are those of the header of `lua/limits/reserve.lua`."""

    kind: str  # "rate", "quota", "team" or "slots"
    field: str
    force: int  # 1: counted even beyond the cap; 2: counted if it fits; neither is refused
    numbers: bytes
    notices: str = ""  # "80,90,100"; of a team's share the account's other teams


def read_state(packed: bytes) -> tuple[int, int, int, int]:
    """A limit's field in the account's hash: used, since (µs), told (percent), carried over."""
    used, since, told, carried = struct.unpack("<4d", packed)
    return int(used), int(since), int(told), int(carried)


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua` ("limits/reserve") behind what scripts of its folder share."""
    folder = files("sidecar.stores") / "lua"

    def part(path: str) -> bytes:
        return (folder / f"{path}.lua").read_bytes()

    text = part("time")
    if name.startswith("limits/"):
        text += part("limits/arithmetic")
        text += b"\nmake_rare = function()\n%b\nend\n" % part("limits/rare")
    text += part(name)
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(name, text, digest.encode())


def answer_of(reply: list[int], claims: int) -> Answer:
    """A script's reply as a value; few numbers per claim, or all."""
    if len(reply) == 2 + ALL * claims:
        besides = tuple(QuotaDetail(*reply[at + 2 : at + ALL]) for at in range(2, len(reply), ALL))
        used, ends = tuple(reply[2::ALL]), tuple(reply[3::ALL])
        return Answer(reply[0] == 1, reply[1], used, ends, besides)
    return Answer(reply[0] == 1, reply[1], tuple(reply[2::FEW]), tuple(reply[3::FEW]))


Part = bytes | str | int


async def run(wire: Connection, name: str, keys: tuple[str, ...], *arguments: Part) -> list[Any]:
    """The script's reply. Raises StoreUnavailable, also for what is no answer of a script."""
    script, slot = load(name), slot_of(keys[0])
    command = encode(b"EVALSHA", script.sha, len(keys), *keys, *arguments)
    reply: Any = await wire.execute(command, None, slot)
    if isinstance(reply, ReplyError) and reply.text.startswith("NOSCRIPT"):
        await wire.execute(encode(b"SCRIPT", b"LOAD", script.text), None, slot)
        reply = await wire.execute(command, None, slot)
    if isinstance(reply, ReplyError):
        raise StoreUnavailable(f"Redis refused {name}: {reply.text}")
    if not isinstance(reply, list) or len(reply) < 2:
        raise StoreUnavailable(f"Redis did not answer {name} as it should.")
    return reply
