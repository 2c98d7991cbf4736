"""Proof of lines before they leave the spool: each must fit the hash that its successor states.

The last line of all fits the hash that the spool remembers. A line whose successor is missing
cannot be proven or refuted, and counts as sound; the gap is reported by its numbers.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.metering.segments import line_hash

PREFIX_BYTES: Final = 256  # of a line: more than its position in the chain needs
_POSITION: Final = re.compile(rb'\{"spool":"([^"]*)","seq":([0-9]{1,19}),"prev":"([0-9a-f]{64})",')
_PREV: Final = re.compile(rb'"prev":"([0-9a-f]{64})"')


class Successor(NamedTuple):
    """What is known of the line after a batch. `seq` is 0 if its number cannot be read."""

    seq: int
    prev: bytes


class Part(NamedTuple):
    """Lines in a row that are all sound, or all damaged. `last`: number of the last one."""

    damaged: bool
    lines: list[bytes]
    first: int
    last: int


def successor_of(line: bytes) -> Successor | None:
    """Read the position of a line, or of its beginning; None if it states no hash."""
    position = _POSITION.match(line)
    if position is not None:
        return Successor(int(position[2]), position[3])
    stated = _PREV.search(line[:PREFIX_BYTES])
    return None if stated is None else Successor(0, stated[1])


def prove(lines: Sequence[bytes], after: Successor | None, spool: str, expected: int) -> list[Part]:
    """Split a batch into sound and damaged parts. `expected`: number of its first line."""
    parts: list[Part] = []
    own = spool.encode()
    for at, line in enumerate(lines):
        position = _POSITION.match(line)
        following = successor_of(lines[at + 1]) if at + 1 < len(lines) else after
        seq = expected
        damaged = position is None or position[1] != own or int(position[2]) < expected
        if position is not None and not damaged:
            seq = int(position[2])
            damaged = (
                following is not None
                and following.seq in (0, seq + 1)
                and following.prev != line_hash(line)
            )
        expected = seq + 1
        if parts and parts[-1].damaged is damaged and parts[-1].last + 1 == seq:
            parts[-1].lines.append(line)
            parts[-1] = parts[-1]._replace(last=seq)
        else:
            parts.append(Part(damaged, [line], seq, seq))
    return parts
