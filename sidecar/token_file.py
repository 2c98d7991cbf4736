"""Files of tokens, one per line: a second one lets clients move to it before a rotation.

Only the SHA-256 of a token stays in memory. No message repeats the name of a file, which may be a
token that was given by mistake.
"""

import os
import re
import stat
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Final

MOST_TOKENS: Final = 16
LEAST_CHARACTERS: Final = 16
MOST_BYTES: Final = 8_192
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{16,}")  # b64token of RFC 6750

Digests = tuple[bytes, ...]


def read_tokens(path: Path) -> Digests:
    """The SHA-256 of each token. Raises ValueError: what is wrong; what to do."""
    lines = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if not lines:
        raise ValueError("the file is empty; write a token into it: openssl rand -hex 32")
    if len(lines) > MOST_TOKENS:
        raise ValueError(f"the file has too many tokens; write at most {MOST_TOKENS} lines")
    if not all(_TOKEN.fullmatch(line) for line in lines):
        raise ValueError(
            f"the file has a line that is not a token; write at least {LEAST_CHARACTERS} "
            "letters, digits and . _ ~ + / = -"
        )
    return tuple([sha256(line).digest() for line in lines])


def has_token(digests: Digests, token: bytes) -> bool:
    """Whether this is one of the tokens, in a time that depends only on their number."""
    given = sha256(token).digest()
    equal = False
    for digest in digests:
        equal |= compare_digest(given, digest)
    return equal


def _read(path: Path) -> bytes:
    """The content of a regular file. Raises ValueError; a pipe would block the sidecar."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("is not a file; name a file with a token")
            data = os.read(fd, MOST_BYTES + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ValueError("the file does not exist; create it, with a token in it") from None
    except OSError as error:
        why = (error.strerror or "error").lower()
        raise ValueError(
            f"the file cannot be read: {why}; make it readable for this user"
        ) from None
    if len(data) > MOST_BYTES:
        raise ValueError(f"the file is too large; write at most {MOST_BYTES} bytes")
    return data
