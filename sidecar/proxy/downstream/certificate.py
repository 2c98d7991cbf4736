"""The certificate of an entry point. An invalid file never replaces a live certificate.

Each reload creates a new TLS context. Loading into the live one would keep its earlier contents:
a certificate with another type of key, a removed client CA, and sessions that clients can resume
without verification.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.errors import SettingsError
from sidecar.logs import logger
from sidecar.metrics import Metrics
from sidecar.pem import pem_problem
from sidecar.proxy.downstream.x509 import not_after

log = logger("proxy")

CHECK_S: Final = 0.5
_Stamp = tuple[tuple[int, int, int, int] | None, ...]


class PemFiles(NamedTuple):
    """The contents of a certificate's files."""

    cert: bytes
    key: bytes
    client_ca: bytes | None


class Certificate:
    """A certificate with its key, followed on disk.

    `context` is for new connections; `not_after` is the expiry of the live certificate, in seconds
    since the epoch; `current` is whether the live certificate is the one in the files. The
    constructor raises SettingsError, about `setting`, if the files cannot be used.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        client_ca: Path | None = None,
        *,
        now: Callable[[], float] = time.time,
        setting: str = "tls_cert",
    ) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._now = now
        self.reloads = 0
        self.failures = 0
        self.current = True
        self._tried = self._seen = self._stamp()
        try:
            self.context, self.not_after = self._load()
        except (OSError, ValueError) as error:
            where = f"--{setting.replace('_', '-')} (SIDECAR_{setting.upper()})"
            raise SettingsError(f"{where}: {self._error_text(error)}") from None
        log.info("certificate_live", file=str(self._cert), expires_at=_date(self.not_after))
        self._warn_if_expired()

    @property
    def has_client_ca(self) -> bool:
        """Whether clients must have a certificate."""
        return self._client_ca is not None

    def read(self) -> PemFiles:
        """The files, for a library with its own TLS. Raises OSError."""
        client_ca = self._client_ca
        authorities = None if client_ca is None else client_ca.read_bytes()
        return PemFiles(self._cert.read_bytes(), self._key.read_bytes(), authorities)

    def reload(self) -> bool:
        """Read the files again. Returns whether the live certificate is now the one in them."""
        self._tried = self._stamp()  # before reading: the next check sees a change during it
        try:
            self.context, self.not_after = self._load()
        except (OSError, ValueError) as error:
            self.failures += 1
            self.current = False
            log.error(
                "certificate_rejected",
                error=self._error_text(error),
                live_expires_at=_date(self.not_after),
            )
            return False
        self.reloads += 1
        self.current = True
        log.info("certificate_replaced", file=str(self._cert), expires_at=_date(self.not_after))
        self._warn_if_expired()
        return True

    def publish(self, metrics: Metrics, prefix: str) -> None:
        """Publish the metrics of the certificate with this prefix."""
        metrics.gauge(
            f"{prefix}_tls_certificate_expiry_timestamp_seconds",
            "Expiry of the live certificate.",
            lambda: self.not_after,
        )
        metrics.gauge(
            f"{prefix}_tls_certificate_ok",
            "1 if the live certificate is the one in the files.",
            lambda: float(self.current),
        )
        metrics.counter(f"{prefix}_tls_reloads", "Certificate reloads.", lambda: self.reloads)
        metrics.counter(
            f"{prefix}_tls_reload_failures",
            "Certificates on disk that were rejected.",
            lambda: self.failures,
        )

    async def watch(self) -> None:
        """Check the files every CHECK_S seconds until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            self.check()

    def check(self) -> None:
        """Reload if the files have changed, but not since the last check.

        The second condition leaves out a pair that is being written. The check follows symlinks,
        which Kubernetes swaps under mounted Secrets; an inotify watch on a file would miss that.
        """
        stamp = self._stamp()
        settled, self._seen = stamp == self._seen, stamp
        if settled and stamp != self._tried:
            self.reload()

    def _stamp(self) -> _Stamp:
        return tuple(_stamp(file) for file in self._files())

    def _load(self) -> tuple[ssl.SSLContext, float]:
        """Raises OSError (ssl.SSLError is one) or ValueError if the files cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        # An empty password keeps OpenSSL from prompting on a terminal.
        context.load_cert_chain(self._cert, self._key, password="")
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context, not_after(self._cert.read_text(encoding="ascii", errors="replace"))

    def _warn_if_expired(self) -> None:
        if self.not_after <= self._now():
            expired_at = _date(self.not_after)
            log.error("certificate_expired", file=str(self._cert), expired_at=expired_at)

    def _error_text(self, error: Exception) -> str:
        files = f"{self._cert} and {self._key}"
        authorities = (self._client_ca,) if self._client_ca else ()
        problem = pem_problem((self._cert, *authorities), (self._key,))
        if problem:
            return problem
        if isinstance(error, ssl.SSLError):
            reason = (error.reason or str(error)).lower().replace("_", " ")
            if self._client_ca is not None:
                files += f" with {self._client_ca}"
            return f"{files} cannot be used together: {reason}"
        if isinstance(error, OSError):
            unreadable = next((str(f) for f in self._files() if not os.access(f, os.R_OK)), files)
            return f"{unreadable} cannot be read: {(error.strerror or str(error)).lower()}"
        return f"{files} cannot be used: {error}"

    def _files(self) -> list[Path]:
        return [file for file in (self._cert, self._key, self._client_ca) if file]


def _stamp(file: Path) -> tuple[int, int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
