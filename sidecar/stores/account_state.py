"""Reads an account's state in Redis, as the scripts write it, into values.

The head of `lua/limits/arithmetic.lua` defines the format. An invalid field is reported and left
out, so that it does not hide the others.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sidecar.core.counting.counters import MOST_SUSPENDED, State
from sidecar.core.counting.limits import Grant
from sidecar.core.counting.reservations import SETTLED, AccountState, Charge, Reservation
from sidecar.core.kinds import QUOTA, UNBOUNDED
from sidecar.stores import keys

_STATE: Final = struct.Struct("<6d")
_QUOTA: Final = struct.Struct("<11d")
_SHORT: Final = struct.Struct("<4d")  # of earlier versions of the sidecar
_SIGNED: Final = (6, 8)  # `settled` and `due` may be below 0
_NUMBER: Final = r"([0-9]{1,16})"
_GRANT: Final = re.compile(
    rf"([^\t\n]*)\t([^\t\n]*)\t{_NUMBER}\t{_NUMBER}\t{_NUMBER}\t(-?[0-9]{{1,16}})(?:\t{_NUMBER})?"
)
_CHARGE: Final = re.compile(
    rf"(rate|quota|team|slots)\t([^\t\n]*)\t{_NUMBER}\t{_NUMBER}(?:\t(-1|{_NUMBER})\t{_NUMBER})?"
)
_ORPHANS: Final = ("charge", "release")


@dataclass(frozen=True, slots=True)
class StoredAccount:
    """One account's limits in Redis.

    `rebuilt`: Redis time in µs of the last rebuild, as stored; "0": never. `problems`: the error
    of each invalid field.
    """

    state: AccountState
    rebuilt: str
    problems: Mapping[str, str]


class UnreadableState(ValueError):
    """A field has a format that the scripts do not write."""


def read_account(fields: Mapping[bytes, bytes], leases: Mapping[bytes, float]) -> StoredAccount:
    """Read an account's hash and its sorted set of leases. Never raises."""
    states: dict[str, State] = {}
    grants: tuple[Grant, ...] = ()
    opened: dict[str, Reservation] = {}
    rebuilt, problems = "0", {}
    for name, value in fields.items():
        field = name.decode(errors="replace")
        try:
            if field == keys.GRANTS:
                grants = tuple(_grants(value.decode()))
            elif field == keys.REBUILT:
                rebuilt = _digits(value.decode())
            elif field.startswith(keys.OPEN):
                if not value.startswith(SETTLED.encode()):
                    opened[field[len(keys.OPEN) :]] = _open(value.decode())
            elif keys.read_field(field) is not None:
                states[field] = _state(value, is_quota=field[0] == QUOTA.letter)
        except ValueError as error:
            problems[field] = str(error)
    until = {
        name.decode(errors="replace"): int(at) for name, at in leases.items() if math.isfinite(at)
    }
    return StoredAccount(AccountState(states, grants, opened, until), rebuilt, problems)


def _state(packed: bytes, *, is_quota: bool) -> State:
    form = _QUOTA if is_quota else _STATE
    counters, rest = divmod(len(packed), form.size)
    if rest or not 1 <= counters <= 1 + MOST_SUSPENDED:
        return _short_state(packed, form.size, is_quota=is_quota)
    first, *suspended = map(_counter, form.iter_unpack(packed))
    return replace(first, suspended=tuple(suspended))


def _short_state(packed: bytes, size: int, *, is_quota: bool) -> State:
    """Return a quota's counter without overage, or one that an earlier version wrote."""
    form = next((one for one in (_STATE, _SHORT) if one.size == len(packed)), None)
    if form is None:
        raise UnreadableState(f"a limit's state must have {size} bytes, not {len(packed)}")
    state = _counter(form.unpack(packed))
    return replace(state, settled=state.used) if is_quota else state


def _counter(numbers: tuple[float, ...]) -> State:
    return State(*[_whole(one, signed=at in _SIGNED) for at, one in enumerate(numbers)])


def _whole(number: float, *, signed: bool = False) -> int:
    if not -UNBOUNDED * signed <= number <= UNBOUNDED or number != int(number):
        raise UnreadableState(f"{number} is not a number of units or an instant")
    return int(number)


def _digits(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,16}", text):
        raise UnreadableState("not an instant")
    return text


def _grants(text: str) -> Iterator[Grant]:
    for number, line in enumerate(_lines(text), 1):
        match = _GRANT.fullmatch(line)
        if match is None:
            raise UnreadableState(f"line {number} is not a grant")
        units, used, expires, priority = map(int, match.group(3, 4, 5, 6))
        yield Grant(match[1], match[2], units, expires, priority, used, int(match[7] or 0))


def _open(text: str) -> Reservation:
    rule, *lines = _lines(text) or [""]
    if rule not in _ORPHANS:
        raise UnreadableState("not an open reservation")
    charges = []
    for number, line in enumerate(lines, 2):
        match = _CHARGE.fullmatch(line)
        if match is None:
            raise UnreadableState(f"line {number} is not a charge")
        reported, allowed = int(match[5] or 0), int(match[7] or 0)
        charges.append(Charge(match[1], match[2], int(match[3]), int(match[4]), reported, allowed))
    return Reservation(rule, tuple(charges))


def _lines(text: str) -> list[str]:
    *lines, rest = text.split("\n")
    if rest:
        raise UnreadableState("the last line is incomplete")
    return lines
