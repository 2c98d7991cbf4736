"""API keys and accounts in Redis, for `sidecar keys`, `accounts` and `grant`.

Each change is one transaction, which includes its entry in the stream that sidecars follow. Only
the SHA-256 of a secret is stored.

In a cluster, the Redis keys of a change are in several slots, so each of them has a transaction.
Their order is safe if the command stops in between: an API key is listed before it works, and
stops working before sidecars are notified. Running the command again completes the change.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain
from typing import Final

from redis.exceptions import RedisClusterException, RedisError

from sidecar.core.model import MICRO, Account, Pack, PlanChange
from sidecar.errors import SidecarError, StoreUnavailable
from sidecar.redis_address import redis_address
from sidecar.stores import keys
from sidecar.stores.client import open_client
from sidecar.stores.directory import GONE, account_from
from sidecar.stores.grants import Granted, grant

TTL_S: Final = 3650 * 86_400  # I9: every Redis key has a TTL
CHANGES_TTL_S: Final = 7 * 86_400
MOST_CHANGES: Final = 10_000
SECRET_BYTES: Final = 32

Step = tuple[tuple[str | int, ...], ...]  # commands on one Redis key


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One API key, without its secret."""

    id: str
    account: str
    digest: str  # SHA-256, hex
    expires_s: int  # from now; below 0: never
    team: str = ""


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One account's record in Redis."""

    id: str
    fields: dict[str, str]


class Admin:
    """A connection for administration.

    Its methods raise StoreUnavailable if Redis is unavailable, SidecarError if a change is invalid.
    """

    def __init__(self, url: str, prefix: str) -> None:
        address = redis_address(url)
        self._prefix = prefix
        self._is_cluster = address.topology == "cluster"
        try:
            self._redis = open_client(address)
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreUnavailable(f"Redis is unavailable: {error}") from None

    def __enter__(self) -> "Admin":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._redis.close()
        if isinstance(error, (RedisError, RedisClusterException, OSError)):
            raise StoreUnavailable(f"Redis is unavailable: {error}") from None

    def create_key(
        self,
        account: str,
        *,
        random_bytes: Callable[[int], bytes],
        key_id: str | None = None,
        expires: timedelta | None = None,
        team: str | None = None,
    ) -> tuple[str, str]:
        """Create an API key; its id and its secret, which is stored nowhere.

        `team` is not checked here. Raises SidecarError if the account has a key of this id.
        """
        if key_id is None:
            key_id = "k" + random_bytes(4).hex()
        self._require_free(account, key_id)
        ttl_s = int(expires.total_seconds()) if expires else TTL_S
        secret, steps = self._new_key(account, key_id, random_bytes, ttl_s, team)
        self._change(*steps)
        return key_id, secret

    def rotate_key(
        self,
        account: str,
        old_id: str,
        *,
        random_bytes: Callable[[int], bytes],
        new_id: str | None = None,
        grace: timedelta,
        expires: timedelta | None = None,
    ) -> tuple[str, str]:
        """Create an API key in place of another one, which expires after `grace`.

        Both changes are one transaction; in a cluster, the new key works before the old one
        ends. The new key has the team of the old one. Returns the new id and its secret. Raises
        SidecarError if the account has no such key, or already has one of the new id.
        """
        by_id = keys.account_keys(self._prefix, account)
        new_id = new_id or "k" + random_bytes(4).hex()
        digest = self._redis.hget(by_id, old_id)
        record = keys.credential(self._prefix, digest or "")
        left_s = self._redis.ttl(record) if digest else GONE
        if digest is None or left_s == GONE:
            raise SidecarError(f'account {account} has no key "{old_id}" in Redis')
        self._require_free(account, new_id)
        ttl_s = int(expires.total_seconds()) if expires else TTL_S
        team = self._redis.hget(record, "team") or None
        secret, steps = self._new_key(account, new_id, random_bytes, ttl_s, team)
        grace_s = int(grace.total_seconds())
        ends = ("EXPIRE", record, min(grace_s, left_s) if left_s >= 0 else grace_s)
        self._change(*steps, (ends,), self._notify("digest", digest))
        return new_id, secret

    def _require_free(self, account: str, key_id: str) -> None:
        """Raise SidecarError if the account has an API key of this id."""
        existing = self._redis.hget(keys.account_keys(self._prefix, account), key_id)
        if existing is not None and self._redis.exists(keys.credential(self._prefix, existing)):
            raise SidecarError(f'account {account} already has a key "{key_id}"; choose another id')

    def _new_key(
        self,
        account: str,
        key_id: str,
        random_bytes: Callable[[int], bytes],
        ttl_s: int,
        team: str | None,
    ) -> tuple[str, tuple[Step, ...]]:
        """The secret of a new API key, and the steps that store it."""
        by_id = keys.account_keys(self._prefix, account)
        secret = "qs_" + base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        record = keys.credential(self._prefix, digest)
        steps = (
            self._list_account(account),
            (("HSET", by_id, key_id, digest), ("EXPIRE", by_id, TTL_S)),
            (
                (
                    "HSET",
                    record,
                    "id",
                    key_id,
                    "account",
                    account,
                    *(("team", team) if team else ()),
                ),
                ("EXPIRE", record, ttl_s),
            ),
            self._notify("digest", digest),
        )
        return secret, steps

    def delete_account(self, account: str) -> int:
        """Revoke all API keys of an account and delete its record; the number of keys.

        Its counters and grants stay until their TTL. Raises SidecarError if Redis has neither.
        """
        by_id, record = (
            keys.account_keys(self._prefix, account),
            keys.account(self._prefix, account),
        )
        digests = sorted(self._redis.hgetall(by_id).values())
        if not digests and not self._redis.exists(record):
            raise SidecarError(f"account {account} is not in Redis")
        self._change(
            *((("DEL", keys.credential(self._prefix, digest)),) for digest in digests),
            *(self._notify("digest", digest) for digest in digests),
            (("DEL", by_id), ("DEL", record)),
            self._notify("account", account),
            (("SREM", keys.accounts(self._prefix), account),),
        )
        return len(digests)

    def revoke_key(self, account: str, key_id: str) -> None:
        """Revoke an API key within 1 s on all sidecars. Raises SidecarError for an unknown id."""
        by_id = keys.account_keys(self._prefix, account)
        digest = self._redis.hget(by_id, key_id)
        if digest is None:
            raise SidecarError(f'account {account} has no key "{key_id}" in Redis')
        self._change(
            (("DEL", keys.credential(self._prefix, digest)),),
            self._notify("digest", digest),
            (("HDEL", by_id, key_id),),
        )

    def list_keys(self, account: str | None = None) -> Iterator[KeyRow]:
        """The API keys of one account or of all, in the order of ids."""
        for owner in [account] if account else self._accounts():
            by_id = keys.account_keys(self._prefix, owner)
            for key_id, digest in sorted(self._redis.hgetall(by_id).items()):
                record = keys.credential(self._prefix, digest)
                ttl = self._redis.ttl(record)
                if ttl != GONE:
                    team = self._redis.hget(record, "team") or ""
                    yield KeyRow(key_id, owner, digest, ttl, team)

    def set_account(
        self,
        account: str,
        *,
        plan: str | None = None,
        timezone: str | None = None,
        anchor: date | None = None,
        status: str | None = None,
        teams: str | None = None,
        webhook: str | None = None,
        then: PlanChange | None = None,
    ) -> None:
        """Create an account's record, or change the fields that are given.

        `teams` has the format of `read_teams`; "": no teams. `plan` cancels a scheduled move.
        Raises SidecarError if the account has no record and no plan is given.
        """
        record = keys.account(self._prefix, account)
        given = {
            "plan": plan,
            "timezone": timezone,
            "anchor": anchor.isoformat() if anchor else None,
            "status": status,
            "teams": teams,
            "webhook": webhook,
            "then": then.plan if then else None if plan is None else "",
            "then_us": str(then.at_us) if then else None if plan is None else "",
        }
        fields = [
            part for name, value in given.items() if value is not None for part in (name, value)
        ]
        if plan is None and not self._redis.exists(record):
            raise SidecarError(f"account {account} is not in Redis; set its plan with --plan")
        changed: Step = (("HSET", record, *fields),) if fields else ()
        self._change(
            self._list_account(account),
            (*changed, ("EXPIRE", record, TTL_S)),
            self._notify("account", account),
        )

    def list_accounts(self) -> Iterator[AccountRow]:
        """The accounts that have a record in Redis."""
        for account in self._accounts():
            fields = self._redis.hgetall(keys.account(self._prefix, account))
            if fields:
                yield AccountRow(account, fields)

    def account(self, account: str) -> Account | None:
        """The account of a record in Redis; None without a record.

        Raises StoreUnavailable if the record is invalid.
        """
        fields = self._redis.hgetall(keys.account(self._prefix, account))
        return account_from(account, fields) if fields else None

    def record(self, account: str) -> dict[str, str]:
        """The fields of an account's record, as they are; empty without a record."""
        return dict(self._redis.hgetall(keys.account(self._prefix, account)))

    def now_us(self) -> int:
        """Redis time, in µs since the epoch."""
        seconds, micros = self._redis.time()
        return int(seconds) * MICRO + int(micros)

    def grant(self, account: Account, pack: Pack, grant_id: str) -> Granted:
        """Grant a pack once per id, and notify sidecars; see `grants.grant`."""
        granted = grant(self._redis, self._prefix, account, pack, grant_id)
        if granted.new:
            self._change(self._notify("account", account.id))
        return granted

    def has_account(self, account: str) -> bool:
        """Whether the account has a record in Redis."""
        return bool(self._redis.exists(keys.account(self._prefix, account)))

    def _accounts(self) -> list[str]:
        return sorted(self._redis.sscan_iter(keys.accounts(self._prefix), count=1000))

    def _list_account(self, account: str) -> Step:
        name = keys.accounts(self._prefix)
        return ("SADD", name, account), ("EXPIRE", name, TTL_S)

    def _notify(self, kind: str, name: str) -> Step:
        stream = keys.changes(self._prefix)
        return (
            ("XADD", stream, "MAXLEN", "~", MOST_CHANGES, "*", kind, name),
            ("EXPIRE", stream, CHANGES_TTL_S),
        )

    def _change(self, *steps: Step) -> None:
        for commands in steps if self._is_cluster else (tuple(chain(*steps)),):
            with self._redis.pipeline(transaction=True) as batch:
                for command in commands:
                    batch.execute_command(*command)
                batch.execute()
