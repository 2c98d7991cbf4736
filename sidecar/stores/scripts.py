"""The Lua scripts as they are sent, and what reserve and peek are told of each claim."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 under which Redis knows it."""

    name: str
    text: bytes
    sha: bytes


class ClaimArguments(NamedTuple):
    """One claim in ARGV; names and order are those of the header of `lua/reserve.lua`.

    Rates: `cost` and `cap` in micro-units, `a` micro-units come back every `b` µs, `c` is 0.
    Quotas: `cost` and `cap` in units; start, end and next end of the period in µs.
    """

    kind: Literal["rate", "quota"]
    field: str
    cost: int
    forced: int  # 1: counted even beyond the cap
    cap: int
    a: int
    b: int
    c: int


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua` behind the shared arithmetic, ready to be loaded."""
    folder = files("sidecar.stores") / "lua"
    text = (folder / "arithmetic.lua").read_bytes() + b"\n" + (folder / f"{name}.lua").read_bytes()
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(name, text, digest.encode())
