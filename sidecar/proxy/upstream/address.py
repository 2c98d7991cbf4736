"""The address of the upstream, and its TLS context."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from sidecar.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Upstream:
    """The address of the API: host and port, or the path of a unix socket. `tls` is for https."""

    host: str = "127.0.0.1"
    port: int = 0
    path: str | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # for SNI and the certificate, if it is not `host`

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host is a name, which has to be resolved."""
        try:
            ip_address(self.host)
        except ValueError:
            return self.path is None
        return False


def tls_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """A client context for TLS 1.2 or newer that always verifies the upstream.

    Raises SettingsError if a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"--upstream-ca: {ca} cannot be used ({_cause(error)}); give a PEM file of CAs"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"--upstream-cert, --upstream-key: {cert} and {key} cannot be used "
                f"({_cause(error)}); give PEM files of a certificate and its key"
            ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
