"""Why a server of Redis did not let the sidecar in, and what to change in `--redis`."""

import re
import socket
import ssl
from errno import ECONNREFUSED
from typing import Final

_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})
EXPECTS_TLS: Final = "; if the server expects TLS, write rediss:// instead of redis://"
NO_TLS: Final = "; if the server does not use TLS, write redis:// instead of rediss://"
WRONG_CREDENTIALS: Final = (
    "; in --redis, percent-encode special characters of user and password, such as %25 for %"
)

REMEDY: Final = "; start it, or name another with --redis URL"
# asyncio's text, if a name has several addresses and each of them failed
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
_WHATS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (ConnectionRefusedError, "refuses connections"),
    (TimeoutError, "does not answer in time"),
    (socket.gaierror, "is not a known host"),
    (UnicodeError, "is not a known host"),  # not a valid IDNA name
    (FileNotFoundError, "does not exist"),
    (PermissionError, "cannot be opened (permission denied)"),
    (ConnectionError, "closes the connection"),
)


def what_failed(error: Exception) -> str:
    """What a server did instead of accepting a connection; it follows the address."""
    for kind, what in _WHATS:
        if isinstance(error, kind):
            return what
    if set(_ERRNO.findall(str(error))) == {str(ECONNREFUSED)}:
        return "refuses connections"
    reason = error.strerror if isinstance(error, OSError) else ""
    return f"cannot be reached ({(reason or str(error) or type(error).__name__).lower()})"


def hint_of(error: Exception, *, tls: bool) -> str:
    """What to change if a server that was spoken to with TLS ends the connection; else ""."""
    mute = tls and isinstance(error, TimeoutError | ConnectionError)
    return NO_TLS if mute and not isinstance(error, ConnectionRefusedError) else ""


def for_command(problem: str, consequence: str = "") -> str:
    """The error of a command: which setting, what failed, what follows, and what to do."""
    problem, _, hint = problem.partition("; ")
    return f"--redis (SIDECAR_REDIS): {problem}{consequence}{'; ' + hint if hint else REMEDY}"


def tls_problem(error: ssl.SSLError) -> str:
    """Why TLS failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or str(error)
        return f"its certificate is not valid here ({reason}); set ssl_ca_certs in --redis"
    if error.reason in _NOT_TLS:
        return f"this is not TLS{NO_TLS}"
    return f"TLS failed ({(error.reason or str(error)).lower().replace('_', ' ')})"
