"""Where the API is, and how it is spoken to before HTTP begins."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from sidecar.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the API is: host and port, or the path of a unix socket; `tls` for https."""

    host: str = "127.0.0.1"
    port: int = 0
    path: str | None = None
    tls: ssl.SSLContext | None = None
    server_name: str | None = None  # for SNI and the certificate, when it is not `host`

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether the host has to be resolved."""
        try:
            ip_address(self.host)
        except ValueError:
            return self.path is None
        return False


def tls_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer, the upstream always verified. Raises SettingsError for unusable files."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"--upstream-ca: {ca} cannot be used ({_what(error)}); give a PEM file of CAs"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if cert is not None and key is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"--upstream-cert, --upstream-key: {cert} and {key} cannot be used "
                f"({_what(error)}); give PEM files of a certificate and its key"
            ) from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _what(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
