"""Why a server of Redis did not let the sidecar in, and what to change in `--redis`."""

import ssl
from typing import Final

_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})
EXPECTS_TLS: Final = "; if the server expects TLS, write rediss:// instead of redis://"
NO_TLS: Final = "; if the server does not use TLS, write redis:// instead of rediss://"
WRONG_CREDENTIALS: Final = (
    "; in --redis, percent-encode special characters of user and password, such as %25 for %"
)


def tls_problem(error: ssl.SSLError) -> str:
    """Why TLS failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message or str(error)
        return f"its certificate is not valid here ({reason}); set ssl_ca_certs in --redis"
    if error.reason in _NOT_TLS:
        return f"this is not TLS{NO_TLS}"
    return f"TLS failed ({(error.reason or str(error)).lower().replace('_', ' ')})"
