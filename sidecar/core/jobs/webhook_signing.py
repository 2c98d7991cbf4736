"""Signatures of webhooks after Standard Webhooks, and their retries.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hmac
from hashlib import sha256
from typing import Final

from sidecar.core.kinds import MICRO

PREFIX: Final = "whsec_"
MIN_SECRET_BYTES: Final = 24  # the specification's minimum
RETRY_SPANS_US: Final = tuple(s * MICRO for s in (5, 30, 120, 600, 3_600))


def parse_secret(text: str) -> bytes:
    """Return the bytes of "whsec_…". Raises ValueError, without the text, if it is invalid."""
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(PREFIX) or len(secret) < MIN_SECRET_BYTES:
        raise ValueError(
            f"not a webhook secret; write {PREFIX} and {MIN_SECRET_BYTES} bytes or more in base64"
        )
    return secret


def account_secret(master: bytes, account_id: str) -> str:
    """Return the secret that signs one account's webhooks.

    It is derived from the master secret, so no secret is stored and no account can sign for
    another.
    """
    derived = hmac.new(master, b"account:" + account_id.encode(), sha256).digest()
    return PREFIX + base64.b64encode(derived).decode()


def signature_fields(secret: str, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the three header fields of a webhook. Raises ValueError if the secret is invalid."""
    content = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
    digest = hmac.new(parse_secret(secret), content, sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def next_retry_us(since_us: int) -> int | None:
    """Return the span until the next try of a webhook; None: give up.

    `since_us` is the span from the end of the job to the failed try. So tries need no counter.
    """
    until = 0
    for span in RETRY_SPANS_US:
        until += span
        if since_us < until:
            return span
    return None
