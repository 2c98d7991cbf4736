"""Packs → grants: extra units for one quota of one account, once per id."""

from typing import Any, Final, NamedTuple

from sidecar.core.model import MICRO, Account, Pack
from sidecar.core.periods import bounds
from sidecar.errors import SidecarError
from sidecar.stores import keys
from sidecar.stores.scripts import load

MOST_GRANTS: Final = 64  # of one account, those of the last 35 days included
_TTL_MS: Final = 35 * 86_400_000
_TRIES: Final = 3  # a period may end between two questions


class Granted(NamedTuple):
    """`new` is False when a grant of this id was there before; `expires_us` is its end."""

    new: bool
    expires_us: int


def grant(client: Any, prefix: str, account: Account, pack: Pack, grant_id: str) -> Granted:
    """Give an account a pack. It acts on the next call, on every sidecar.

    `client` is a redis-py client. Raises SidecarError when the account has too many grants.
    """
    state = keys.state(prefix, account.id)
    seconds, micros = client.time()
    now_us = int(seconds) * MICRO + int(micros)
    for _ in range(_TRIES):
        status, now_us, *rest = client.eval(
            load("limits/grant").text, 1, state, _TTL_MS, grant_id, keys.quota_field(pack.limit),
            pack.units, pack.priority, MOST_GRANTS, *_lasts(pack, account, now_us),
        )  # fmt: skip
        if status == -2:
            raise SidecarError(
                f"account {account.id} has had {MOST_GRANTS} grants in the last 35 days, which is "
                "as many as are kept; sell larger packs"
            )
        if status >= 0:
            return Granted(status == 1, int(rest[0]))
    raise SidecarError("Redis time does not stand still long enough to find the period")


def _lasts(pack: Pack, account: Account, now_us: int) -> tuple[str | int, ...]:
    """The script's words for it: "at" an instant, "for" a while, or to the end of a "period"."""
    if isinstance(pack.lasts, int):
        return ("at", pack.lasts)
    if pack.lasts[-1] == "s":
        return ("for", int(pack.lasts[:-1]) * MICRO)
    return ("period", *bounds(pack.lasts, account.timezone, account.anchor, now_us))
