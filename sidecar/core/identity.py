"""Headers → credential → fingerprint, and the account of a caller who shows none."""

from collections.abc import Sequence
from hashlib import sha256
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from sidecar.core.model import Account, Key

ANONYMOUS: Final = "anonymous"
_HALF: Final = 64  # bits of an IPv6 address that one subscriber holds


class AmbiguousCredential(ValueError):
    """More than one credential, and no telling which is meant."""


def fingerprint(secret: bytes) -> bytes:
    """The SHA-256 digest under which a key is kept and looked up; 32 bytes.

    Constant-time by construction: the secret is hashed whole, never compared, and the lookup
    compares digests. A caller who guesses learns at most how much of a *digest* agrees, and
    cannot choose digests without inverting SHA-256, so timing tells nothing about a secret.
    """
    return sha256(secret).digest()


def credential(api_keys: Sequence[bytes], authorizations: Sequence[bytes]) -> bytes | None:
    """The secret that a caller shows in X-Api-Key or as a bearer token (RFC 6750, section 2.1).

    None when there is none of ours (no header, or another scheme); b"" when one is there but
    empty. Raises AmbiguousCredential for a repeated header or two secrets that differ.
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
    """The key of a caller without a credential: one account per client address.

    IPv6 callers are told apart by their /64, since one subscriber commonly holds all of it
    (RFC 6177); an IPv4-mapped address is the IPv4 address. Callers whose address is not
    known (a Unix socket) share the account `anonymous/unknown`.
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
