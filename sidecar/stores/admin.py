"""What `sidecar keys` and `sidecar accounts` do: each change is one transaction, and is told to
every sidecar through the changes stream. Only the SHA-256 of a secret is ever stored."""

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import redis
from redis.exceptions import RedisError

from sidecar.errors import SidecarError, StoreUnavailable
from sidecar.stores import keys

TTL: Final = timedelta(days=3650)  # every key in Redis has one
CHANGES_TTL: Final = timedelta(days=7)
CHANGES_KEPT: Final = 10_000
SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One API key: what may be shown of it."""

    id: str
    account: str
    digest: str  # SHA-256, hex
    expires_s: int  # from now


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account's record in Redis."""

    id: str
    fields: dict[str, str]


class Admin:
    """Raises StoreUnavailable when Redis cannot be asked, SidecarError when it cannot be done."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        self._redis: Any = redis.Redis.from_url(
            url, decode_responses=True, socket_timeout=5, socket_connect_timeout=5
        )

    def __enter__(self) -> "Admin":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._redis.close()
        if isinstance(error, (RedisError, OSError)):
            raise StoreUnavailable(f"Redis cannot be asked: {error}") from None

    def create_key(
        self,
        account: str,
        *,
        random_bytes: Callable[[int], bytes],
        key_id: str | None = None,
        expires: timedelta | None = None,
    ) -> tuple[str, str]:
        """(key id, secret). The secret is nowhere else: show it once."""
        by_id = keys.account_keys(self._prefix, account)
        if key_id is None:
            key_id = "k" + random_bytes(4).hex()
        if self._redis.hexists(by_id, key_id):
            raise SidecarError(f"account {account} has a key {key_id} already; name another")
        secret = "qs_" + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        ttl = expires or TTL
        with self._redis.pipeline(transaction=True) as batch:
            record = keys.credential(self._prefix, digest)
            batch.hset(record, mapping={"id": key_id, "account": account})
            batch.expire(record, ttl)
            batch.hset(by_id, key_id, digest)
            batch.expire(by_id, TTL)
            self._list_account(batch, account)
            self._tell(batch, {"digest": digest})
            batch.execute()
        return key_id, secret

    def revoke_key(self, account: str, key_id: str) -> None:
        """The key stops working on every sidecar within a second."""
        by_id = keys.account_keys(self._prefix, account)
        digest = self._redis.hget(by_id, key_id)
        if digest is None:
            raise SidecarError(f"account {account} has no key {key_id} in Redis")
        with self._redis.pipeline(transaction=True) as batch:
            batch.delete(keys.credential(self._prefix, digest))
            batch.hdel(by_id, key_id)
            self._tell(batch, {"digest": digest})
            batch.execute()

    def list_keys(self, account: str | None = None) -> Iterator[KeyRow]:
        """Every key, of one account or of all, in the order of ids."""
        for owner in [account] if account else self._accounts():
            by_id = keys.account_keys(self._prefix, owner)
            for key_id, digest in sorted(self._redis.hgetall(by_id).items()):
                ttl = self._redis.ttl(keys.credential(self._prefix, digest))
                if ttl != -2:  # -2: expired meanwhile
                    yield KeyRow(key_id, owner, digest, ttl)

    def set_account(
        self,
        account: str,
        *,
        plan: str | None = None,
        timezone: str | None = None,
        anchor: date | None = None,
        status: str | None = None,
    ) -> None:
        """Create an account's record or change what is given of it."""
        record = keys.account(self._prefix, account)
        given = {
            "plan": plan,
            "timezone": timezone,
            "anchor": anchor.isoformat() if anchor else None,
            "status": status,
        }
        fields = {name: value for name, value in given.items() if value is not None}
        if plan is None and not self._redis.exists(record):
            raise SidecarError(f"account {account} is not in Redis; name its plan with --plan")
        with self._redis.pipeline(transaction=True) as batch:
            if fields:
                batch.hset(record, mapping=fields)
            batch.expire(record, TTL)
            self._list_account(batch, account)
            self._tell(batch, {"account": account})
            batch.execute()

    def list_accounts(self) -> Iterator[AccountRow]:
        """Every account that has a record in Redis."""
        for account in self._accounts():
            fields = self._redis.hgetall(keys.account(self._prefix, account))
            if fields:
                yield AccountRow(account, fields)

    def has_account(self, account: str) -> bool:
        """Whether the account has a record in Redis."""
        return bool(self._redis.exists(keys.account(self._prefix, account)))

    def _accounts(self) -> list[str]:
        return sorted(self._redis.sscan_iter(keys.accounts(self._prefix), count=1000))

    def _list_account(self, batch: Any, account: str) -> None:
        batch.sadd(keys.accounts(self._prefix), account)
        batch.expire(keys.accounts(self._prefix), TTL)

    def _tell(self, batch: Any, change: dict[str, str]) -> None:
        stream = keys.changes(self._prefix)
        batch.xadd(stream, change, maxlen=CHANGES_KEPT, approximate=True)
        batch.expire(stream, CHANGES_TTL)
