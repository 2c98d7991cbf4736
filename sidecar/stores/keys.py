"""Every key that this project uses in Redis, and the fields inside an account's state.

All keys of an account share the hash tag `{account}`, so that they live in one slot of a
cluster. Braces and percent signs in an account's id are escaped, so that no id can leave its tag.
"""

import re
from typing import Final

from sidecar.core.model import ConcurrencyLimit, Limit, QuotaLimit, RateLimit, TeamShare

# Fields of an account's state that are no limit's.
GRANTS: Final = "grants"
REBUILT: Final = "rebuilt"
OPEN: Final = "o/"  # before the id of an open reservation


def _tag(account: str) -> str:
    escaped = account.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return "{" + escaped + "}"


def state(prefix: str, account: str) -> str:
    """The hash with the counters of all of an account's limits."""
    return f"{prefix}:{_tag(account)}:state"


def states(prefix: str) -> str:
    """A pattern, as SCAN has it, for the states of all accounts."""
    return re.sub(r"([*?^\[\]\\-])", r"\\\1", prefix) + ":{*}:state"


def account_of(prefix: str, key: str) -> str | None:
    """Whose state a key is; None for other keys."""
    start, end = prefix + ":{", "}:state"
    tag = key[len(start) : -len(end)]
    if not (key.startswith(start) and key.endswith(end)) or "}" in tag:
        return None
    return tag.replace("%7D", "}").replace("%7B", "{").replace("%25", "%")


def leases(prefix: str, account: str) -> str:
    """The sorted set that says until when an account's open reservations are believed in."""
    return f"{prefix}:{_tag(account)}:leases"


_KINDS: Final = {RateLimit: "r", QuotaLimit: "q", ConcurrencyLimit: "c", TeamShare: "t"}


def limit_field(limit: Limit, key_id: str) -> str:
    """Names one limit inside the state, the key for limits that count per key, the team for its
    share of a quota."""
    if isinstance(limit, TeamShare):
        return team_field(limit.id, limit.team)
    return _field(_KINDS[type(limit)], limit.id, key_id if limit.per == "key" else None)


def quota_field(limit_id: str, key_id: str | None = None) -> str:
    """The same for a quota that only its id is known of."""
    return _field(_KINDS[QuotaLimit], limit_id, key_id)


def team_field(limit_id: str, team: str) -> str:
    """Names what a team uses of an account's quota."""
    return _field(_KINDS[TeamShare], limit_id, team)


def other_fields(limit: Limit) -> tuple[str, ...]:
    """Of a team's share: the names of the other teams' shares; () for all else."""
    if not isinstance(limit, TeamShare):
        return ()
    return tuple(team_field(limit.id, other.team) for other in limit.others)


def _field(kind: str, limit_id: str, key_id: str | None) -> str:
    return f"{kind}/{limit_id}" if key_id is None else f"{kind}/{limit_id}/{key_id}"


def read_field(field: str) -> tuple[str, str, str | None] | None:
    """(kind, limit's id, key's or team's id or None) of a limit's field; the kind is "r", "q", "t"
    (a team's share of a quota) or "c"."""
    kind, _, rest = field.partition("/")
    limit_id, slash, key_id = rest.partition("/")
    if kind not in _KINDS.values() or not limit_id:
        return None
    return kind, limit_id, key_id if slash else None


def credential(prefix: str, digest_hex: str) -> str:
    """The hash that says which account a credential belongs to."""
    return f"{prefix}:key:{digest_hex}"


def account(prefix: str, account_id: str) -> str:
    """The hash with an account's plan, zone, anchor and status."""
    return f"{prefix}:{_tag(account_id)}:account"


def account_keys(prefix: str, account_id: str) -> str:
    """The hash key id → credential digest of an account."""
    return f"{prefix}:{_tag(account_id)}:keys"


def accounts(prefix: str) -> str:
    """The set of account ids that have a record or keys in Redis."""
    return f"{prefix}:accounts"


def changes(prefix: str) -> str:
    """The stream that tells every sidecar which key or account changed."""
    return f"{prefix}:changes"


def charged(prefix: str, account_id: str, journal: str, key_id: str) -> str:
    """The number up to which a journal's entries of one key were charged to its account."""
    return f"{prefix}:{_tag(account_id)}:charged:{journal}:{key_id}"


def sidecars(prefix: str) -> str:
    """The sorted set of sidecars that are alive."""
    return f"{prefix}:{{sidecars}}:alive"


def uncharged_sidecars(prefix: str) -> str:
    """The sorted set of those of them that let pass what Redis was not told of yet."""
    return f"{prefix}:{{sidecars}}:owing"


def events(prefix: str) -> str:
    """The stream that the redis sink ships to."""
    return f"{prefix}:events"


# Deferred jobs. `workload` says whose API they are for: accounts may be shared, queues never are.


def job_queue(prefix: str, account_id: str, workload: str) -> str:
    """The stream of an account's jobs that have not ended."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:queue"


def job_records(prefix: str, account_id: str, workload: str) -> str:
    """What the names of its jobs' records begin with; the job's id follows."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:job:"


def job_once(prefix: str, account_id: str, workload: str, name: str) -> str:
    """What an Idempotency-Key of the account stands for; `name` is its digest."""
    return f"{prefix}:{_tag(account_id)}:jobs:{workload}:once:{name}"


def jobs_of_all(prefix: str, workload: str, what: str) -> str:
    """A sorted set about the jobs of all accounts: "open", "running", "turns" or "told"."""
    return f"{prefix}:{{jobs}}:{workload}:{what}"
