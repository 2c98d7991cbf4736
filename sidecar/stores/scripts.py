"""The Lua scripts as they are sent: the shared arithmetic in front of each operation."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and the SHA-1 under which Redis knows it."""

    name: str
    text: bytes
    sha: bytes


@cache
def load(name: str) -> Script:
    """The script `lua/<name>.lua`, ready to be loaded."""
    folder = files("sidecar.stores") / "lua"
    text = (folder / "arithmetic.lua").read_bytes() + b"\n" + (folder / f"{name}.lua").read_bytes()
    digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
    return Script(name, text, digest.encode())
