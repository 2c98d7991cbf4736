"""The gateways that may ask: by a unix socket or mutual TLS, or by a token."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError
from sidecar.logs import logger
from sidecar.token_file import Digests, has_token, read_tokens

log = logger("decide")

TOKEN: Final = b"x-decide-token"
_SETTING: Final = "--decide-token-file (SIDECAR_DECIDE_TOKEN_FILE)"


class Callers:
    """Recognises gateways. Without a token file, the socket has decided: every peer may ask."""

    def __init__(self, token_file: Path | None = None) -> None:
        self.refused = 0
        self._file = token_file
        self._digests: Digests | None = None
        if token_file is not None:
            self._digests = _digests_of(token_file)

    def trusts(self, fields: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request with these (name in lower case, line) comes from a gateway.

        Takes the same time for each wrong token: whole digests are compared, with all tokens.
        """
        if self._digests is None:
            return True
        given = [line for name, line in fields if name == TOKEN]
        token = given[0].partition(b":")[2].strip() if len(given) == 1 else b""
        trusted = has_token(self._digests, token)
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


def _digests_of(file: Path) -> Digests:
    """The digests of the tokens in a file. Raises SettingsError."""
    try:
        return read_tokens(file)
    except ValueError as error:
        raise SettingsError(f"{_SETTING}: {error}") from None
