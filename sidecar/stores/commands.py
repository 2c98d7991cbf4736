"""What is sent to the scripts: an account's claims as arguments, with the periods they need."""

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Final

from sidecar.core.answers import Hold
from sidecar.core.model import MICRO, Account, Claim, ConcurrencyLimit, Limit, QuotaLimit, TeamShare
from sidecar.core.periods import Window, longest_s, window_at
from sidecar.core.survey import kind_of, weight
from sidecar.stores import keys
from sidecar.stores.connection.slots import slot_of
from sidecar.stores.connection.wire import encode
from sidecar.stores.scripts import ClaimArguments, ClaimNumbers, Script

WINDOWS_KEPT: Final = 20_000
SLOTS_KEPT: Final = 20_000
BUCKET_MARGIN_MS: Final = 3_600_000
QUOTA_MARGIN_MS: Final = 35 * 86_400_000
NOT_ENFORCED: Final = {"rate": 2, "quota": 1, "team": 1, "slots": 1}  # `force` of a limit in shadow


class Commands:
    """Encodes commands for accounts; keeps the periods' bounds that it worked out."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._windows: dict[tuple[str, str, date | None], Window] = {}

    def slot(self, account_id: str) -> int:
        """Of a cluster, where all keys of the account are."""
        return _slot(self._prefix, account_id)

    def needs_time(self, account: Account, claims: Sequence[Claim]) -> bool:
        """Whether a quota is among them whose period has never been looked for."""
        return any(
            isinstance(claim.limit, QuotaLimit)
            and (claim.limit.period, account.timezone, account.anchor) not in self._windows
            for claim in claims
        )

    def window(self, limit: QuotaLimit, account: Account, now_us: int) -> Window:
        """The period's bounds; found anew when `now_us` (0: not known) lies outside of them."""
        name = (limit.period, account.timezone, account.anchor)
        window = self._windows.get(name)
        if window is None or (now_us and not window.start <= now_us < window.after):
            window = window_at(limit, account, now_us)
            if len(self._windows) >= WINDOWS_KEPT:
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
        """A script's command on these claims; `more` follows them. The key beside the account's
        state is that of its leases, another one, or there is none."""
        if leases and beside is None:
            beside = keys.leases(self._prefix, account.id)
        parts: list[bytes | str | int] = [
            b"EVALSHA", script.sha, 2 if beside else 1, keys.state(self._prefix, account.id)
        ]  # fmt: skip
        if beside:
            parts.append(beside)
        parts += (ttl_ms(claims), len(claims))
        for claim in claims:
            parts += self._arguments(claim, account, key_id, now_us)
        parts += more
        return encode(*parts)

    def _arguments(
        self, claim: Claim, account: Account, key_id: str, now_us: int
    ) -> ClaimArguments:
        limit, kind, cost = claim.limit, kind_of(claim), weight(claim)
        force = 1 if claim.forced else NOT_ENFORCED[kind] if limit.shadow else 0
        notices = ""
        if isinstance(limit, TeamShare):
            window = self.window(limit, account, now_us)
            numbers = ClaimNumbers(cost, limit.cap, *window, limit.units, limit.lends)
            notices = _others(limit)
        elif isinstance(limit, QuotaLimit):
            window = self.window(limit, account, now_us)
            numbers = ClaimNumbers(cost, limit.cap, *window, limit.units, limit.rollover)
            notices = ",".join(map(str, limit.notices))
        elif isinstance(limit, ConcurrencyLimit):
            numbers = ClaimNumbers(cost, limit.slots)
        else:
            numbers = ClaimNumbers(cost, limit.burst * MICRO, *limit.refill)
        field = keys.limit_field(limit, key_id)
        return ClaimArguments(kind, field, force, numbers.packed(), notices)


def _others(share: TeamShare) -> str:
    fields = zip(keys.other_fields(share), share.others, strict=True)
    return "".join(f"{field}\t{one.units}\t{one.lends:d}\n" for field, one in fields)


@lru_cache(SLOTS_KEPT)
def _slot(prefix: str, account_id: str) -> int:
    return slot_of(keys.state(prefix, account_id))


def period_start(window: Window, at_us: int) -> int:
    """Of the period that the instant is in."""
    return window.start if at_us < window.end else window.end


def hold_arguments(hold: Hold) -> tuple[int, str, str]:
    """The arguments that follow the claims of a reservation that is held."""
    return hold.lease_us, hold.orphans, hold.id


def ttl_ms(claims: Sequence[Claim]) -> int:
    """Time to full for buckets, period and 35 days for quotas; the longest of all claims."""
    return max((_ttl_ms(claim.limit) for claim in claims), default=QUOTA_MARGIN_MS)


def _ttl_ms(limit: Limit) -> int:
    if isinstance(limit, QuotaLimit):
        return longest_s(limit.period) * 1000 + QUOTA_MARGIN_MS
    if isinstance(limit, ConcurrencyLimit):
        return QUOTA_MARGIN_MS
    return limit.burst * MICRO * limit.refill[1] // limit.refill[0] // 1000 + BUCKET_MARGIN_MS
