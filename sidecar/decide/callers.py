"""The gateways that may ask: by a unix socket or mutual TLS, or by a token."""

import hmac
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError
from sidecar.logs import logger

log = logger("decide")

TOKEN: Final = b"x-decide-token"
SHORTEST: Final = 16  # characters of a token
MOST: Final = 16  # tokens, of which several are valid during a rotation
_SETTING: Final = "--decide-token-file (SIDECAR_DECIDE_TOKEN_FILE)"


class Callers:
    """Recognises gateways. Without a token file, the socket has decided: every peer may ask."""

    def __init__(self, token_file: Path | None = None) -> None:
        self.refused = 0
        self._file = token_file
        self._digests: tuple[bytes, ...] | None = None
        if token_file is not None:
            self._digests = _digests_of(token_file)

    def trusts(self, fields: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these (name in lower case, line) comes from a gateway.

        Takes the same time for each wrong token: whole digests are compared, with all tokens.
        """
        if self._digests is None:
            return True
        given = [line for name, line in fields if name == TOKEN]
        trusted = False
        if len(given) == 1:
            digest = sha256(given[0].partition(b":")[2].strip()).digest()
            for known in self._digests:
                trusted |= hmac.compare_digest(known, digest)
        if not trusted:
            self.refused += 1
            if self.refused == 1:
                log.warning(
                    "decide_caller_refused",
                    remedy="let the gateway send a token of --decide-token-file in X-Decide-Token",
                )
        return trusted

    def reload(self) -> None:
        """Read the tokens again. An invalid file leaves the former tokens valid."""
        if self._file is None:
            return
        try:
            self._digests = _digests_of(self._file)
        except SettingsError as error:
            log.error("decide_tokens_rejected", error=str(error))


def _digests_of(file: Path) -> tuple[bytes, ...]:
    """The digests of the tokens in a file, one per line. Raises SettingsError."""
    try:
        lines = file.read_text(encoding="ascii").split()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(f"{_SETTING}: {file} cannot be read: {reason}") from None
    except ValueError:
        raise SettingsError(f"{_SETTING}: {file} has other characters than ASCII") from None
    if not lines:
        raise SettingsError(f"{_SETTING}: {file} has no token; write one per line")
    if min(map(len, lines)) < SHORTEST or len(lines) > MOST:
        raise SettingsError(
            f"{_SETTING}: {file} must have at most {MOST} tokens of at least {SHORTEST} "
            "characters; write one per line, for example from: openssl rand -hex 32"
        )
    return tuple([sha256(line.encode()).digest() for line in lines])
