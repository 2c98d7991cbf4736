"""Access to the paths of the control port that show or change the configuration.

With a token file, a request needs one of its tokens. Without one, the configuration is shown only
to this machine (a pod counts as one), and not changed: any web page that is open here could send
such a request.
"""

import os
import re
import stat
import time
from collections.abc import Callable
from enum import Enum, auto
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError
from sidecar.logs import logger

log = logger("control")

FLAG: Final = "--control-token-file (SIDECAR_CONTROL_TOKEN_FILE)"
MOST_TOKENS: Final = 8
LEAST_CHARACTERS: Final = 16
MOST_BYTES: Final = 4_096
CHECK_EVERY_S: Final = 1.0  # at most so often, and only for requests that need a token
LOG_EVERY_S: Final = 10.0
_TOKEN: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{16,}")  # b64token of RFC 6750
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
    """The tokens in a file, one per line; a second one lets clients move to it before a rotation.

    Only their SHA-256 is kept in memory. A changed file is read again within CHECK_EVERY_S. While
    it is missing or invalid, no token is accepted. The constructor raises SettingsError if the file
    cannot be used; no message repeats its name, which may be a token given by mistake.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._checked_at = now()
        self._stamp: _Stamp | None = None
        self._digests: tuple[bytes, ...] = ()
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
        """Whether this is one of the tokens, in a time that depends only on their number."""
        given = sha256(token.encode("utf-8", "surrogateescape")).digest()
        equal = False
        for digest in self._digests:
            equal |= compare_digest(given, digest)
        return equal

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
        stamp, text = _read(self._path)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError("the file is empty; write a token into it: openssl rand -hex 32")
        if len(lines) > MOST_TOKENS:
            raise ValueError(f"the file has too many tokens; write at most {MOST_TOKENS} lines")
        if not all(_TOKEN.fullmatch(line) for line in lines):
            raise ValueError(
                f"the file has a line that is not a token; write at least {LEAST_CHARACTERS} "
                "letters, digits and . _ ~ + / = -"
            )
        self._digests = tuple(sha256(line).digest() for line in lines)
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
        return _stamp_of(path.stat())
    except (OSError, ValueError):
        return None


def _stamp_of(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _read(path: Path) -> tuple[_Stamp, bytes]:
    """The content of a regular file. Raises ValueError; a pipe would block the sidecar."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
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
    return _stamp_of(status), data
