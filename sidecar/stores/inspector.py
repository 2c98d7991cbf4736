"""Reads and rebuilds accounts' counters in Redis, for `sidecar reconcile` and `rebuild`."""

from collections.abc import Iterator, Sequence
from typing import Final

from sidecar.core.kinds import MICRO
from sidecar.core.model import Account
from sidecar.redis_address import redis_address
from sidecar.stores import keys
from sidecar.stores.account_state import StoredAccount, read_account
from sidecar.stores.client import FAILURES, open_client, unavailable
from sidecar.stores.directory import account_from
from sidecar.stores.rebuild import Change, RebuildResult, rebuild

SCANNED_AT_ONCE: Final = 1_000  # Redis keys per SCAN


class Inspector:
    """A connection for reconciling. Its methods raise StoreUnavailable."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        self._address = redis_address(url)
        try:
            self._redis = open_client(self._address, text=False)
        except FAILURES as error:
            raise unavailable(self._address, error) from None

    def __enter__(self) -> "Inspector":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._redis.close()
        if isinstance(error, FAILURES):
            raise unavailable(self._address, error) from None

    def now_us(self) -> int:
        """Redis time, in µs since the epoch."""
        seconds, micros = self._redis.time()
        return int(seconds) * MICRO + int(micros)

    def accounts(self) -> Iterator[str]:
        """Accounts that have a state; the same one may be repeated."""
        for key in self._redis.scan_iter(match=keys.states(self._prefix), count=SCANNED_AT_ONCE):
            account = keys.account_of(self._prefix, key.decode(errors="replace"))
            if account is not None:
                yield account

    def read(self, account: str) -> StoredAccount:
        """The state of an account's limits; empty for an unknown account.

        It is read with two commands, so a lease may belong to a reservation that has ended.
        """
        leases = self._redis.zrange(keys.leases(self._prefix, account), 0, -1, withscores=True)
        fields = self._redis.hgetall(keys.state(self._prefix, account))
        return read_account(fields, dict(leases))

    def record(self, account: str) -> Account | None:
        """The account of a record in Redis; None without a record."""
        fields = self._redis.hgetall(keys.account(self._prefix, account))
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        return account_from(account, texts) if texts else None

    def charged(self, account: str, journal: str, key_id: str) -> int:
        """Number of the last charged entry of a journal; 0: none."""
        number = self._redis.get(keys.charged(self._prefix, account, journal, key_id))
        return int(number) if number is not None and number.isdigit() else 0

    def rebuild(
        self, account: Account, changes: Sequence[Change], rebuilt: str, now_us: int
    ) -> RebuildResult:
        """Change counters that have not changed since they were read; see `rebuild.rebuild`."""
        return rebuild(self._redis, self._prefix, account, changes, rebuilt, now_us)
