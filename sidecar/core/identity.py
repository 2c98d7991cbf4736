"""Headers → API key → SHA-256 digest, and the account of a request without an API key."""

from collections.abc import Sequence
from hashlib import sha256
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from sidecar.core.model import Account, Key

ANONYMOUS: Final = "anonymous"
_MOST_ID: Final = 128  # characters
_HALF: Final = 64  # bits of the IPv6 prefix that one subscriber has


class AmbiguousCredential(ValueError):
    """A request with more than one credential: it is unclear which one counts."""


def valid_id(text: str) -> bool:
    """Whether this can be the ID of an account, API key or team in header fields and texts.

    `sidecar accounts` and `keys` are stricter; other programs write records in Redis, too. A line
    end in one would add header fields to requests.
    """
    return 0 < len(text) <= _MOST_ID and text.isprintable() and " " not in text


def key_digest(secret: bytes) -> bytes:
    """Return the SHA-256 digest under which an API key is stored and found; 32 bytes.

    Constant-time by construction: the secret is hashed whole and never compared; the lookup
    compares digests. An attacker learns at most how much of a *digest* agrees, and cannot choose
    digests without inverting SHA-256. So timing reveals nothing about a secret.
    """
    return sha256(secret).digest()


def credential(api_keys: Sequence[bytes], authorizations: Sequence[bytes]) -> bytes | None:
    """Return the API key in X-Api-Key or in a bearer token (RFC 6750, section 2.1).

    None without a header, or with another scheme; b"" if the value is empty. Raises
    AmbiguousCredential for a repeated header, or for two secrets that differ.
    """
    if len(api_keys) > 1 or len(authorizations) > 1:
        raise AmbiguousCredential("a credential header is repeated")
    secret = api_keys[0].strip(b" \t") if api_keys else None
    if not authorizations:
        return secret
    token = _bearer(authorizations[0])
    if token is None:
        return secret
    if secret is not None and secret != token:
        raise AmbiguousCredential("X-Api-Key and Authorization differ")
    return token


def _bearer(value: bytes) -> bytes | None:
    value = value.strip(b" \t")
    if value[:6].lower() != b"bearer" or value[6:7] not in (b"", b" ", b"\t"):
        return None
    return value[7:].strip(b" \t")


def anonymous_key(address: str, plan: str) -> Key:
    """Return the key for requests without an API key: one account per client address.

    IPv6 clients have one account per /64, because one subscriber commonly has all of it (RFC 6177).
    An IPv4-mapped address counts as the IPv4 address. Clients without a known address (a Unix
    socket) share the account `anonymous/unknown`.
    """
    return Key(ANONYMOUS, Account(f"{ANONYMOUS}/{_origin(address)}", plan))


def _origin(address: str) -> str:
    try:
        if ":" not in address:
            return str(IPv4Address(address))
        wide = IPv6Address(address)
    except AddressValueError:
        return "unknown"
    if wide.ipv4_mapped is not None:
        return str(wide.ipv4_mapped)
    return f"{IPv6Address(int(wide) >> _HALF << _HALF)}/{_HALF}"
