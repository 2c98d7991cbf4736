"""Every key that this project uses in Redis, and the fields inside an account's state.

All keys of an account share the hash tag `{account}`, so that they live in one slot of a
cluster. Braces and percent signs in an account's id are escaped, so that no id can leave its tag.
"""


def _tag(account: str) -> str:
    escaped = account.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return "{" + escaped + "}"


def state(prefix: str, account: str) -> str:
    """The hash with the counters of all of an account's limits."""
    return f"{prefix}:{_tag(account)}:state"


def limit_field(limit: str, key_id: str | None) -> str:
    """Names one limit inside the state; `key_id` for limits that count per key."""
    return limit if key_id is None else f"{limit}/{key_id}"


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


def events(prefix: str) -> str:
    """The stream that the redis sink ships to."""
    return f"{prefix}:events"
