"""The certificate of the data port: loaded whole, replaced whole, never lost to a bad file.

A new pair gets a context of its own. Loading it into the live one would keep what that was
given before: a certificate with another kind of key, a client CA that was taken away, and
sessions that clients may resume without being verified again.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sidecar.errors import SettingsError
from sidecar.logs import logger
from sidecar.proxy.downstream.x509 import not_after

log = logger("proxy")

LOOK_SECONDS: Final = 0.5
_Stamp = tuple[tuple[int, int, int, int] | None, ...]


class Certificate:
    """Raises SettingsError when the first pair cannot be used.

    `context` is for new connections; `not_after` is when the live certificate expires, in
    seconds since the epoch; `good` tells whether what is live is what is in the files.
    """

    def __init__(
        self,
        cert: Path,
        key: Path,
        client_ca: Path | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._now = now
        self.reloads = 0
        self.failures = 0
        self.good = True
        self._tried = self._seen = self._stamp()
        try:
            self.context, self.not_after = self._load()
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"--tls-cert (SIDECAR_TLS_CERT): {self._complaint(error)}"
            ) from None
        log.info("certificate_live", **self._fields())
        self._warn_if_expired()

    def reload(self) -> bool:
        """Read the files again. Whether what is live now is what is in the files."""
        self._tried = self._stamp()  # before reading: a change meanwhile is seen at the next look
        try:
            self.context, self.not_after = self._load()
        except (OSError, ValueError) as error:
            self.failures += 1
            self.good = False
            log.error(
                "certificate_rejected",
                error=self._complaint(error),
                live_until=_date(self.not_after),
            )
            return False
        self.reloads += 1
        self.good = True
        log.info("certificate_replaced", **self._fields())
        self._warn_if_expired()
        return True

    async def watch(self) -> None:
        """Look at the files until cancelled, twice a second."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Reload when the files have changed and stood still since the last look.

        Files are followed through symlinks, as Kubernetes swaps them under mounted Secrets; an
        inotify watch on a file would miss that. A pair that is being written is left to rest.
        """
        stamp = self._stamp()
        rested, self._seen = stamp == self._seen, stamp
        if rested and stamp != self._tried:
            self.reload()

    def _stamp(self) -> _Stamp:
        return tuple(_stamp(file) for file in (self._cert, self._key, self._client_ca) if file)

    def _load(self) -> tuple[ssl.SSLContext, float]:
        """Raises OSError (ssl.SSLError is one) or ValueError for what cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_RENEGOTIATION
        # An empty password: never ask a terminal for one.
        context.load_cert_chain(self._cert, self._key, password="")
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context, not_after(self._cert.read_text(encoding="ascii", errors="replace"))

    def _fields(self) -> dict[str, str]:
        return {"file": str(self._cert), "expires": _date(self.not_after)}

    def _warn_if_expired(self) -> None:
        if self.not_after <= self._now():
            log.error("certificate_expired", file=str(self._cert),
                      expired=_date(self.not_after))  # fmt: skip

    def _complaint(self, error: Exception) -> str:
        files = f"{self._cert} and {self._key}"
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
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
