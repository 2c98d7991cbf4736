"""Looks into what Redis holds of accounts, and changes their counters when it is told to."""

from collections.abc import Iterator, Sequence
from typing import Final

from redis.exceptions import RedisClusterException, RedisError

from sidecar.core.model import MICRO, Account
from sidecar.errors import StoreUnavailable
from sidecar.redis_address import redis_address
from sidecar.stores import keys
from sidecar.stores.account_state import StoredAccount, read_account
from sidecar.stores.client import open_client
from sidecar.stores.directory import account_from
from sidecar.stores.rebuild import Change, RebuildResult, rebuild

AT_ONCE: Final = 1_000  # keys that one SCAN looks at
_TROUBLE: Final = (RedisError, RedisClusterException, OSError)


class Inspector:
    """Raises StoreUnavailable when Redis cannot be asked."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        try:
            self._redis = open_client(redis_address(url), text=False)
        except _TROUBLE as error:
            raise StoreUnavailable(f"Redis cannot be asked: {error}") from None

    def __enter__(self) -> "Inspector":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._redis.close()
        if isinstance(error, _TROUBLE):
            raise StoreUnavailable(f"Redis cannot be asked: {error}") from None

    def now_us(self) -> int:
        """Redis time."""
        seconds, micros = self._redis.time()
        return int(seconds) * MICRO + int(micros)

    def accounts(self) -> Iterator[str]:
        """Accounts that have a state; one may come more than once."""
        for key in self._redis.scan_iter(match=keys.states(self._prefix), count=AT_ONCE):
            account = keys.account_of(self._prefix, key.decode(errors="replace"))
            if account is not None:
                yield account

    def read(self, account: str) -> StoredAccount:
        """All that Redis holds of an account's limits. Empty for an account that it does not know;
        two commands, so that a lease may belong to a reservation that is over by now."""
        leases = self._redis.zrange(keys.leases(self._prefix, account), 0, -1, withscores=True)
        fields = self._redis.hgetall(keys.state(self._prefix, account))
        return read_account(fields, dict(leases))

    def record(self, account: str) -> Account | None:
        """The account by its record in Redis; None if it has none."""
        fields = self._redis.hgetall(keys.account(self._prefix, account))
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        return account_from(account, texts) if texts else None

    def charged(self, account: str, journal: str, key_id: str) -> int:
        """Up to which number entries of a journal were charged; 0 when none was."""
        mark = self._redis.get(keys.charged(self._prefix, account, journal, key_id))
        return int(mark) if mark is not None and mark.isdigit() else 0

    def rebuild(
        self, account: Account, changes: Sequence[Change], rebuilt: str, now_us: int
    ) -> RebuildResult:
        """Change counters if they are still those that were read; see `rebuilding.rebuild`."""
        return rebuild(self._redis, self._prefix, account, changes, rebuilt, now_us)
