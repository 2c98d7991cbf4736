"""Access to the paths of the control port that show or change the configuration.

With a token file, a request needs one of its tokens. Without one, the configuration is shown only
to this machine (a pod counts as one), and not changed: any web page that is open here could send
such a request.
"""

import re
import time
from collections.abc import Callable
from enum import Enum, auto
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError
from sidecar.logs import logger
from sidecar.token_file import Digests, has_token, read_tokens

log = logger("control")

FLAG: Final = "--control-token-file (SIDECAR_CONTROL_TOKEN_FILE)"
CHECK_EVERY_S: Final = 1.0  # at most so often, and only for requests that need a token
LOG_EVERY_S: Final = 10.0
_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_Stamp = tuple[int, int, int, int]


class Access(Enum):
    """Whether a request may see or change the configuration, and why not."""

    ALLOWED = auto()
    NO_TOKEN = auto()  # the request has none
    WRONG_TOKEN = auto()
    FILE_UNUSABLE = auto()  # the token file cannot be read now
    NOT_CONFIGURED = auto()  # it needs a token, and no token file is set


class TokenFile:
    """The tokens in a file. A changed file is read again within CHECK_EVERY_S.

    While it is missing or invalid, no token is accepted. The constructor raises SettingsError if
    the file cannot be used.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._checked_at = now()
        self._stamp: _Stamp | None = None
        self._digests: Digests = ()
        try:
            self._load()
        except ValueError as error:
            raise SettingsError(f"{FLAG}: {error}") from None

    @property
    def usable(self) -> bool:
        """Whether the file has tokens now."""
        self._check()
        return bool(self._digests)

    def accepts(self, token: str) -> bool:
        """Whether this is one of the tokens."""
        return has_token(self._digests, token.encode("utf-8", "surrogateescape"))

    def _check(self) -> None:
        """Read the file again if it has changed since it was read."""
        if self._now() - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = self._now()
        if self._stamp is not None and _stamp(self._path) == self._stamp:
            return
        was_usable = bool(self._digests)
        try:
            self._load()
        except ValueError as error:
            self._digests = ()
            if was_usable:
                log.error("control_token_unusable", error=str(error))
        else:
            log.info("control_token_live", tokens=len(self._digests))

    def _load(self) -> None:
        """Raises ValueError: what is wrong; what to do."""
        self._stamp = None
        stamp = _stamp(self._path)  # before reading: the next check sees a change during it
        self._digests = read_tokens(self._path)
        self._stamp = stamp


class ControlAccess:
    """Decides on requests for the configuration. `tokens`: None without a token file."""

    def __init__(
        self, tokens: TokenFile | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._tokens = tokens
        self._now = now
        self._refused = 0  # since it was logged
        self._logged_at = -LOG_EVERY_S

    def decide(self, authorization: str | None, peer: str | None, *, changes: bool) -> Access:
        """Whether to answer a request with this Authorization field from this address.

        `changes`: the request changes something.
        """
        access = self._decide(authorization, peer, changes=changes)
        if access is not Access.ALLOWED:
            self._log(peer, access)
        return access

    def _decide(self, authorization: str | None, peer: str | None, *, changes: bool) -> Access:
        if self._tokens is None:
            local = not changes and is_loopback(peer)
            return Access.ALLOWED if local else Access.NOT_CONFIGURED
        if not self._tokens.usable:
            return Access.FILE_UNUSABLE
        match = _BEARER.fullmatch(authorization or "")
        if match is None:
            return Access.NO_TOKEN
        return Access.ALLOWED if self._tokens.accepts(match[1]) else Access.WRONG_TOKEN

    def _log(self, peer: str | None, access: Access) -> None:
        self._refused += 1
        if self._now() - self._logged_at < LOG_EVERY_S:
            return
        log.warning(
            "control_access_refused",
            peer=peer,
            cause=access.name.lower(),
            requests=self._refused,
        )
        self._refused, self._logged_at = 0, self._now()


def control_access(token_file: Path | None) -> ControlAccess:
    """The access of a control port with this setting. Raises SettingsError."""
    return ControlAccess(None if token_file is None else TokenFile(token_file))


def is_loopback(peer: str | None) -> bool:
    """Whether this is an address of the machine itself."""
    try:
        address = ip_address(peer or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
