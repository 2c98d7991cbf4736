"""The Lua scripts as they are sent, and what they are told of each claim."""

import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, NamedTuple

from sidecar.core.answers import Answer, Besides

FEW: Final = 2  # numbers per claim in a reply
ALL: Final = 6  # and when there is more to say


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 under which Redis knows it."""

    name: str
    text: bytes
    sha: bytes


class ClaimNumbers(NamedTuple):
    """The numbers of one claim, as the header of `lua/reserve.lua` names them.

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
    """One claim in ARGV; names and order are those of the header of `lua/reserve.lua`."""

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
    """The script `lua/<name>.lua` behind the shared arithmetic, ready to be loaded."""
    folder = files("sidecar.stores") / "lua"
    shared, seldom, own = (
        (folder / f"{part}.lua").read_bytes() for part in ("arithmetic", "seldom", name)
    )
    text = b"%b\nmake_seldom = function()\n%b\nend\n%b" % (shared, seldom, own)
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(name, text, digest.encode())


def answer_of(reply: list[int], claims: int) -> Answer:
    """A script's reply as a value; few numbers per claim, or all."""
    if len(reply) == 2 + ALL * claims:
        besides = tuple(Besides(*reply[at + 2 : at + ALL]) for at in range(2, len(reply), ALL))
        used, ends = tuple(reply[2::ALL]), tuple(reply[3::ALL])
        return Answer(reply[0] == 1, reply[1], used, ends, besides)
    return Answer(reply[0] == 1, reply[1], tuple(reply[2::FEW]), tuple(reply[3::FEW]))
