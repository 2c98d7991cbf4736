"""Signatures of webhooks, as Standard Webhooks has them, and when a webhook is tried again.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from sidecar.core.model import MICRO

PREFIX: Final = "whsec_"
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052
LEAST_SECRET: Final = 24  # bytes, as the specification asks for
AGAIN_US: Final = tuple(s * MICRO for s in (5, 30, 120, 600, 3_600))


def secret_of(text: str) -> bytes:
    """The bytes of "whsec_…". Raises ValueError for what is no such secret."""
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(PREFIX) or len(secret) < LEAST_SECRET:
        raise ValueError(
            f"is no secret of webhooks; write {PREFIX} and {LEAST_SECRET} bytes or more in base64"
        )
    return secret


def secret_for(master: bytes, account_id: str) -> str:
    """The secret that one account's webhooks are signed with, as the account gets it: made of
    ours, so that no account can sign for another and none is stored."""
    made = hmac.new(master, b"account:" + account_id.encode(), sha256).digest()
    return PREFIX + base64.b64encode(made).decode()


def signed(secret: str, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The three fields of a webhook. Raises ValueError for what is no secret."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    made = hmac.new(secret_of(secret), content, sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": "v1," + base64.b64encode(made).decode(),
    }


def again_us(since_us: int) -> int | None:
    """The span after which a webhook that fails `since_us` after what it tells is tried again;
    None: no more. Nobody has to count the tries."""
    until = 0
    for span in AGAIN_US:
        until += span
        if since_us < until:
            return span
    return None


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: what a stranger's URL may lead to.
    One that stands for an IPv4 address is as public as that. Raises ValueError for a name."""
    one = ip_address(address.partition("%")[0])
    if isinstance(one, IPv6Address):
        if one.ipv4_mapped is not None:
            one = one.ipv4_mapped
        elif one in _NAT64:
            one = IPv4Address(int(one) & 0xFFFFFFFF)
        elif one.sixtofour is not None or one.teredo is not None:
            return False  # routers decide where these lead
    return one.is_global and not one.is_multicast
