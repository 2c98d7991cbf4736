"""The form of the API keys that commands create: "qs_" and random bytes in base64url."""

import base64
from typing import Final

RANDOM_BYTES: Final = 32


def api_key(random: bytes) -> str:
    """The API key made of RANDOM_BYTES random bytes."""
    return "qs_" + base64.urlsafe_b64encode(random).rstrip(b"=").decode()
