"""Encodes script commands: an account's claims as arguments, with the periods of its quotas."""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Final

from sidecar.core.answers import Hold
from sidecar.core.counting.counts import counts_of
from sidecar.core.kinds import RATE, Limit, PeriodLimit, QuotaLimit, RateLimit, TeamShare
from sidecar.core.model import Account, Claim
from sidecar.core.periods import Window, longest_s, window_at
from sidecar.stores import keys
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import encode
from sidecar.stores.scripts import ClaimArguments, ClaimNumbers, Script

MOST_WINDOWS: Final = 20_000
MOST_SLOTS: Final = 20_000
BUCKET_MARGIN_MS: Final = 3_600_000
QUOTA_MARGIN_MS: Final = 35 * 86_400_000


class Commands:
    """Encodes commands for accounts, and caches the bounds of periods."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._windows: dict[tuple[str, str, date | None], Window] = {}

    def slot(self, account_id: str) -> int:
        """The cluster slot of all Redis keys of the account."""
        return _slot(self._prefix, account_id)

    def needs_time(self, account: Account, claims: Sequence[Claim]) -> bool:
        """Whether the period of a claimed quota has never been computed."""
        return any(
            isinstance(claim.limit, PeriodLimit)
            and (claim.limit.period, account.timezone, account.anchor) not in self._windows
            for claim in claims
        )

    def window(self, limit: PeriodLimit, account: Account, now_us: int) -> Window:
        """The period's bounds, computed again if `now_us` (0: unknown) is not in the period."""
        name = (limit.period, account.timezone, account.anchor)
        window = self._windows.get(name)
        if window is None or (now_us and not window.start <= now_us < window.end):
            window = window_at(limit, account, now_us)
            if len(self._windows) >= MOST_WINDOWS:
                self._windows.clear()
            self._windows[name] = window
        return window

    def claims(
        self,
        script: Script,
        account: Account,
        key_id: str,
        claims: Sequence[Claim],
        now_us: int,
        *,
        leases: bool = True,
        beside: str | None = None,
        more: Sequence[str | int] = (),
    ) -> bytes:
        """The command that runs a script on claims; `more` are the arguments after them.

        KEYS[2] is `beside`, or the account's leases, or missing without `leases`.
        """
        if leases and beside is None:
            beside = keys.leases(self._prefix, account.id)
        names = [keys.state(self._prefix, account.id)]
        if beside:
            names.append(beside)
        parts: list[bytes | str | int] = [b"EVALSHA", script.sha, len(names), *names]
        parts += (ttl_ms(claims), len(claims))
        for claim in claims:
            parts += self._arguments(claim, account, key_id, now_us)
        parts += more
        return encode(*parts)

    def _arguments(
        self, claim: Claim, account: Account, key_id: str, now_us: int
    ) -> ClaimArguments:
        limit, notices = claim.limit, ""
        weight, full, counts = limit.weight(claim.cost), limit.full, counts_of(limit)
        if isinstance(limit, RateLimit):
            numbers = ClaimNumbers(weight, full, *limit.refill, counts=counts)
        elif isinstance(limit, QuotaLimit):
            window = self.window(limit, account, now_us)
            numbers = ClaimNumbers(weight, full, *window, limit.units, limit.rollover, counts)
            notices = ",".join(map(str, limit.notices))
        elif isinstance(limit, TeamShare):
            window = self.window(limit, account, now_us)
            numbers = ClaimNumbers(weight, full, *window, limit.units, limit.lends, counts)
            notices = _other_teams(limit)
        else:
            numbers = ClaimNumbers(weight, full)
        force = 1 if claim.forced else 0
        if limit.shadow and not claim.forced:
            force = 2 if limit.kind is RATE else 1
        field = keys.limit_field(limit, key_id)
        return ClaimArguments(limit.kind.name, field, force, numbers.packed(), notices)


def _other_teams(share: TeamShare) -> str:
    fields = zip(keys.other_fields(share), share.others, strict=True)
    return "".join(f"{field}\t{one.units}\t{one.lends:d}\n" for field, one in fields)


@lru_cache(MOST_SLOTS)
def _slot(prefix: str, account_id: str) -> int:
    return slot_of(keys.state(prefix, account_id))


def period_start(window: Window, at_us: int) -> int:
    """The start of the window's period that `at_us` is in."""
    return window.start if at_us < window.end else window.end


def hold_arguments(hold: Hold) -> tuple[int, str, int, str]:
    """The arguments after the claims of a reservation that stays open."""
    return hold.lease_us, hold.orphans, int(hold.late), hold.id


def settlement_arguments(hold_id: str, *, billed: bool) -> tuple[int, str]:
    """The arguments after the claims of a settlement."""
    return int(billed), hold_id


def ttl_ms(claims: Sequence[Claim]) -> int:
    """The TTL of an account's state: of its claims' TTLs, the longest.

    Buckets: the time to refill and 1 hour. Quotas: the period and 35 days. Slots: 35 days.
    """
    return max((_ttl_ms(claim.limit) for claim in claims), default=QUOTA_MARGIN_MS)


def _ttl_ms(limit: Limit) -> int:
    if isinstance(limit, RateLimit):
        return limit.full * limit.refill[1] // limit.refill[0] // 1000 + BUCKET_MARGIN_MS
    if isinstance(limit, PeriodLimit):
        return longest_s(limit.period) * 1000 + QUOTA_MARGIN_MS
    return QUOTA_MARGIN_MS
