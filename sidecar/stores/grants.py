"""Grants: packs of extra units for one quota of an account, once per id."""

from typing import Any, Final, NamedTuple

from sidecar.core.counting.counts import meter_number
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Pack
from sidecar.core.periods import bounds
from sidecar.errors import SidecarError
from sidecar.stores import keys
from sidecar.stores.changes import TTL_S
from sidecar.stores.scripts import load

MOST_GRANTS: Final = 64  # of one account, with those that expired in the last 35 days
_TTL_MS: Final = 35 * 86_400_000
_TRIES: Final = 3  # a period may end between reading the time and granting


class Granted(NamedTuple):
    """`new`: False if a grant of this id existed before. `expires_us`: its end, in Redis time."""

    new: bool
    expires_us: int


def grant(
    client: Any, prefix: str, account: Account, pack: Pack, grant_id: str, body: str
) -> Granted:
    """Grant a pack to an account. Every sidecar applies it to the next request.

    `client` is a redis-py client. `body`: of the record in the account's outbox. Raises
    SidecarError if the account has `MOST_GRANTS` grants, or one of this id that is of another
    pack.
    """
    state, outbox = keys.state(prefix, account.id), keys.outbox(prefix, account.id)
    seconds, micros = client.time()
    now_us = int(seconds) * MICRO + int(micros)
    for _ in range(_TRIES):
        status, now_us, *rest = client.eval(
            load("limits/grant").text, 2, state, outbox, _TTL_MS, grant_id,
            keys.quota_field(pack.limit), pack.units, pack.priority, MOST_GRANTS, body,
            TTL_S * 1000, meter_number(pack.meter), *_lasts(pack, account, now_us),
        )  # fmt: skip
        if status == -2:
            raise SidecarError(
                f"account {account.id} has {MOST_GRANTS} grants in the last 35 days, the maximum; "
                "sell larger packs"
            )
        if status == -3:
            raise SidecarError(
                f'account {account.id} has a grant "{grant_id}" of another pack; give each pack of '
                "an order an id of its own"
            )
        if status >= 0:
            return Granted(status == 1, int(rest[0]))
    raise SidecarError("the Redis clock moves too fast to find the current period")


def _lasts(pack: Pack, account: Account, now_us: int) -> tuple[str | int, ...]:
    """The script's arguments for the end: "at" an instant, "for" a time, or end of a "period"."""
    if isinstance(pack.lasts, int):
        return ("at", pack.lasts)
    if pack.lasts[-1] == "s":
        return ("for", int(pack.lasts[:-1]) * MICRO)
    return ("period", *bounds(pack.lasts, account.timezone, account.anchor, now_us))
