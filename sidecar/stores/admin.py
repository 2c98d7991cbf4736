"""API keys and accounts in Redis, for `sidecar keys`, `accounts` and `grant`.

Each change is one transaction, which includes its entry in the stream that sidecars follow, and the
record of which a sidecar makes an event (`changes.py`). Only the SHA-256 of a secret is stored.

In a cluster, a change has several transactions. Their order is safe if the command stops in
between: an API key is listed before it works, and stops working before sidecars are notified.
Running the command again completes the change.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain
from uuid import uuid4

from sidecar.core.api_key import RANDOM_BYTES, api_key
from sidecar.core.events.changes import (
    DELETED,
    Change,
    account_changes,
    grant_change,
    grant_identity,
    key_change,
    record_body,
)
from sidecar.core.kinds import MICRO
from sidecar.core.model import Account, Pack, PlanChange
from sidecar.core.text import instant
from sidecar.errors import SidecarError
from sidecar.redis_address import redis_address
from sidecar.stores import keys
from sidecar.stores.changes import TTL_S, Changes, Step
from sidecar.stores.client import FAILURES, open_client, unavailable
from sidecar.stores.directory import GONE, account_from
from sidecar.stores.grants import Granted, grant


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
        self._address = redis_address(url)
        self._prefix = prefix
        try:
            self._redis = open_client(self._address)
        except FAILURES as error:
            raise unavailable(self._address, error) from None
        is_cluster = self._address.topology == "cluster"
        self._changes = Changes(self._redis, prefix, is_cluster=is_cluster)

    def __enter__(self) -> "Admin":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._redis.close()
        if isinstance(error, FAILURES):
            raise unavailable(self._address, error) from None

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
        now_us = self.now_us()
        change = key_change("created", key_id, team=team, expires_at=_end(now_us, expires))
        secret, steps = self._new_key(account, key_id, random_bytes, now_us, expires, team, change)
        self._changes.commit(*steps)
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
        team = self._redis.hget(record, "team") or None
        grace_s = int(grace.total_seconds())
        grace_s, now_us = min(grace_s, left_s) if left_s >= 0 else grace_s, self.now_us()
        change = key_change(
            "rotated",
            new_id,
            replaces=old_id,
            replaced_ends_at=instant(now_us + grace_s * MICRO),
            team=team,
            expires_at=_end(now_us, expires),
        )
        secret, steps = self._new_key(account, new_id, random_bytes, now_us, expires, team, change)
        self._changes.commit(
            *steps, (("EXPIRE", record, grace_s),), self._changes.notify("digest", digest)
        )
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
        now_us: int,
        expires: timedelta | None,
        team: str | None,
        change: Change,
    ) -> tuple[str, tuple[Step, ...]]:
        """The secret of a new API key, and the steps that store it."""
        by_id = keys.account_keys(self._prefix, account)
        secret = api_key(random_bytes(RANDOM_BYTES))
        digest = hashlib.sha256(secret.encode()).hexdigest()
        record = keys.credential(self._prefix, digest)
        fields = ("id", key_id, "account", account, *(("team", team) if team else ()))
        ttl_s = int(expires.total_seconds()) if expires else TTL_S
        changes, recorded = self._changes, self._recorded(account, now_us, change)
        steps = (
            changes.announce(account, now_us),
            changes.list_account(account),
            (("HSET", by_id, key_id, digest), ("EXPIRE", by_id, TTL_S), *recorded),
            (("HSET", record, *fields), ("EXPIRE", record, ttl_s)),
            changes.notify("digest", digest),
        )
        return secret, steps

    def _recorded(self, account: str, now_us: int, *changes: Change) -> Step:
        """The commands that record changes, under ids that no other change has."""
        named = [(f"change/{account}/{uuid4()}", change) for change in changes]
        return self._changes.records(account, now_us, *named)

    def delete_account(self, account: str) -> int:
        """Revoke all API keys of an account and delete its record; the number of keys.

        Its counters and grants stay until their TTL. Raises SidecarError if Redis has neither.
        """
        by_id, record = (
            keys.account_keys(self._prefix, account),
            keys.account(self._prefix, account),
        )
        listed, fields = self._redis.hgetall(by_id), self._redis.hgetall(record)
        digests = sorted(listed.values())
        if not digests and not fields:
            raise SidecarError(f"account {account} is not in Redis")
        changes, now_us = self._changes, self.now_us()
        data = {"plan": fields.get("plan"), "keys": sorted(listed)}
        changes.commit(
            changes.announce(account, now_us),
            *((("DEL", keys.credential(self._prefix, digest)),) for digest in digests),
            *(changes.notify("digest", digest) for digest in digests),
            (
                ("DEL", by_id),
                ("DEL", record),
                *self._recorded(account, now_us, (DELETED, data)),
            ),
            changes.notify("account", account),
            (("SREM", keys.accounts(self._prefix), account),),
        )
        return len(digests)

    def revoke_key(self, account: str, key_id: str) -> None:
        """Revoke an API key within 1 s on all sidecars. Raises SidecarError for an unknown id."""
        by_id = keys.account_keys(self._prefix, account)
        digest = self._redis.hget(by_id, key_id)
        if digest is None:
            raise SidecarError(f'account {account} has no key "{key_id}" in Redis')
        changes, now_us = self._changes, self.now_us()
        recorded = self._recorded(account, now_us, key_change("revoked", key_id))
        changes.commit(
            changes.announce(account, now_us),
            (("DEL", keys.credential(self._prefix, digest)),),
            changes.notify("digest", digest),
            (("HDEL", by_id, key_id), *recorded),
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
        fields = {name: value for name, value in given.items() if value is not None}
        before = self.record(account)
        if plan is None and not before:
            raise SidecarError(f"account {account} is not in Redis; set its plan with --plan")
        changed: Step = (("HSET", record, *chain(*fields.items())),) if fields else ()
        changes, now_us = self._changes, self.now_us()
        recorded = self._recorded(account, now_us, *account_changes(before, before | fields))
        changes.commit(
            changes.announce(account, now_us) if recorded else (),
            changes.list_account(account),
            (*changed, ("EXPIRE", record, TTL_S), *recorded),
            changes.notify("account", account),
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
        return self._changes.now_us()

    def grant(self, account: Account, pack: Pack, grant_id: str, plan_version: str = "") -> Granted:
        """Grant a pack once per id, record it, and notify sidecars; see `grants.grant`.

        `plan_version`: of the plan file that has the pack.
        """
        changes = self._changes
        changes.commit(changes.announce(account.id, self.now_us()))
        change = grant_change(pack, grant_id, account.plan, plan_version)
        body = record_body(grant_identity(account.id, grant_id), change)
        granted = grant(self._redis, self._prefix, account, pack, grant_id, body)
        if granted.new:
            changes.commit(changes.notify("account", account.id))
        return granted

    def has_account(self, account: str) -> bool:
        """Whether the account has a record in Redis."""
        return bool(self._redis.exists(keys.account(self._prefix, account)))

    def _accounts(self) -> list[str]:
        return sorted(self._redis.sscan_iter(keys.accounts(self._prefix), count=1000))


def _end(now_us: int, span: timedelta | None) -> str | None:
    """The instant after a span; None without one."""
    return instant(now_us + int(span.total_seconds()) * MICRO) if span else None
