"""The names of all Redis keys, and of the fields in an account's state.

All Redis keys of an account share the hash tag `{account}`, so they are in one slot of a cluster.
Braces and percent signs in an account's id are escaped, so that no id can end its tag.
"""

import re
from typing import Final

from sidecar.core.kinds import LETTERS, QUOTA, TEAM, Limit, TeamShare

# Fields of an account's state that do not belong to a limit
GRANTS: Final = "grants"
REBUILT: Final = "rebuilt"
OPEN: Final = "o/"  # before the id of an open reservation


def _tag(account: str) -> str:
    escaped = account.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return "{" + escaped + "}"


def state(prefix: str, account: str) -> str:
    """The hash with the state of all limits of an account."""
    return f"{prefix}:{_tag(account)}:state"


def states(prefix: str) -> str:
    """The SCAN pattern for the states of all accounts."""
    return re.sub(r"([*?^\[\]\\-])", r"\\\1", prefix) + ":{*}:state"


def account_of(prefix: str, key: str) -> str | None:
    """The account whose state a Redis key is; None for other keys."""
    start, end = prefix + ":{", "}:state"
    tag = key[len(start) : -len(end)]
    if not (key.startswith(start) and key.endswith(end)) or "}" in tag:
        return None
    return tag.replace("%7D", "}").replace("%7B", "{").replace("%25", "%")


def leases(prefix: str, account: str) -> str:
    """The sorted set of an account's reservation leases, with their ends."""
    return f"{prefix}:{_tag(account)}:leases"


def limit_field(limit: Limit, key_id: str) -> str:
    """The field of one limit in the state, with the key of a limit per key, or with the team."""
    if isinstance(limit, TeamShare):
        return team_field(limit.id, limit.team)
    return _field(limit.kind.letter, limit.id, key_id if limit.per == "key" else None)


def quota_field(limit_id: str, key_id: str | None = None) -> str:
    """The field of a quota with this id."""
    return _field(QUOTA.letter, limit_id, key_id)


def team_field(limit_id: str, team: str) -> str:
    """The field of a team's share of a quota."""
    return _field(TEAM.letter, limit_id, team)


def other_fields(limit: Limit) -> tuple[str, ...]:
    """The fields of the other teams' shares, for a team's share; otherwise ()."""
    if not isinstance(limit, TeamShare):
        return ()
    return tuple(team_field(limit.id, other.team) for other in limit.others)


def _field(kind: str, limit_id: str, key_id: str | None) -> str:
    return f"{kind}/{limit_id}" if key_id is None else f"{kind}/{limit_id}/{key_id}"


def read_field(field: str) -> tuple[str, str, str | None] | None:
    """Kind, limit id, and key or team id (or None) of a limit's field; None for other fields.

    The kind is "r" (rate), "q" (quota), "t" (a team's share of a quota) or "c" (concurrency).
    """
    kind, _, rest = field.partition("/")
    limit_id, slash, key_id = rest.partition("/")
    if kind not in LETTERS or not limit_id:
        return None
    return kind, limit_id, key_id if slash else None


def credential(prefix: str, digest_hex: str) -> str:
    """The hash with an API key's id, account and team, by its SHA-256."""
    return f"{prefix}:key:{digest_hex}"


def account(prefix: str, account_id: str) -> str:
    """The hash with an account's plan, time zone, billing anchor, status and teams."""
    return f"{prefix}:{_tag(account_id)}:account"


def account_keys(prefix: str, account_id: str) -> str:
    """The hash of an account's API keys: id → SHA-256."""
    return f"{prefix}:{_tag(account_id)}:keys"


def accounts(prefix: str) -> str:
    """The set of accounts that have a record or API keys in Redis."""
    return f"{prefix}:accounts"


def changes(prefix: str) -> str:
    """The stream of changed API keys and accounts, which every sidecar follows."""
    return f"{prefix}:changes"


def outbox(prefix: str, account_id: str) -> str:
    """The list of an account's changes of which no event was made yet."""
    return f"{prefix}:{_tag(account_id)}:outbox"


def outboxes(prefix: str) -> str:
    """The sorted set of accounts whose outbox may have records, with their last announcement."""
    return f"{prefix}:{{outbox}}:accounts"


def outbox_lease(prefix: str) -> str:
    """The sidecar that makes events of outboxes."""
    return f"{prefix}:{{outbox}}:lease"


def plan_files(prefix: str) -> str:
    """The hash of plan files by their version, compressed."""
    return f"{prefix}:{{plans}}:texts"


def live_plan_files(prefix: str) -> str:
    """The sorted set of versions of plan files, with the instant when each was last live."""
    return f"{prefix}:{{plans}}:live"


def charged(prefix: str, account_id: str, journal: str, key_id: str) -> str:
    """The number of a journal's last entry that was charged for one API key."""
    return f"{prefix}:{_tag(account_id)}:charged:{journal}:{key_id}"


def sidecars(prefix: str) -> str:
    """The sorted set of running sidecars."""
    return f"{prefix}:{{sidecars}}:alive"


def uncharged_sidecars(prefix: str) -> str:
    """The sorted set of running sidecars that have uncharged requests."""
    return f"{prefix}:{{sidecars}}:owing"


def events(prefix: str) -> str:
    """The stream of the redis sink."""
    return f"{prefix}:events"


# Deferred jobs. `workload` is the API: APIs may share accounts, but not job queues.


def job_queue(prefix: str, account_id: str, workload: str) -> str:
    """The stream of an account's jobs that have not ended."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:queue"


def job_records(prefix: str, account_id: str, workload: str) -> str:
    """The common start of the names of an account's job records; a job's id follows."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:job:"


def job_idempotency(prefix: str, account_id: str, workload: str, name: str) -> str:
    """The job of an Idempotency-Key of the account; `name` is the digest of that key."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:idempotency:{name}"


def jobs_of_account(prefix: str, account_id: str, workload: str, what: str) -> str:
    """A key about the jobs of one account: "sizes", "ended" or "rate"."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:{what}"


def jobs_of_all(prefix: str, workload: str, what: str) -> str:
    """A key about the jobs of all accounts.

    "open", "running", "accounts", "webhooks" and "ended" are sorted sets, "sizes" is a hash.
    """
    return f"{prefix}:{{jobs}}:{workload}:{what}"
