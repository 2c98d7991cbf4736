"""Reads the plan files that sidecars keep in Redis, for commands.

A text that does not have the SHA-256 of its version is not returned.
"""

import contextlib
import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, Final

from sidecar.core.kinds import MICRO
from sidecar.redis_address import redis_address
from sidecar.stores import keys
from sidecar.stores.client import FAILURES, open_client, unavailable

LIVE_S: Final = 7_500  # since a sidecar last noted it, which each does every hour
MOST_LIVE: Final = 8  # versions that are live at the same time, of rolling updates and other APIs
MOST_TEXT: Final = 16 << 20  # of one plan file


class PlanFileReader:
    """Reads plan files, for commands. Its methods raise StoreUnavailable."""

    def __init__(self, url: str, prefix: str) -> None:
        self._address = redis_address(url)
        self._prefix = prefix

    def find(self, version: str) -> bytes | None:
        """Return a plan file; None if Redis does not have it, or if its content has changed."""
        with self._client() as client:
            return self._find(client, version)

    def live(self) -> list[bytes]:
        """Return the plan files that sidecars have used within `LIVE_S`, the newest first."""
        with self._client() as client:
            seconds, micros = client.time()
            since = (int(seconds) - LIVE_S) * MICRO + int(micros)
            versions = client.zrange(
                keys.live_plan_files(self._prefix), "+inf", since,
                desc=True, byscore=True, offset=0, num=MOST_LIVE,
            )  # fmt: skip
            texts = [self._find(client, version.decode()) for version in versions]
        return [text for text in texts if text is not None]

    def _find(self, client: Any, version: str) -> bytes | None:
        compressed = client.hget(keys.plan_files(self._prefix), version)
        text = None if compressed is None else _decompressed(compressed)
        if text is None or "sha256:" + hashlib.sha256(text).hexdigest() != version:
            return None
        return text

    def versions(self) -> list[str]:
        """Return the versions, the one that was live the longest ago first."""
        with self._client() as client:
            listed = client.zrange(keys.live_plan_files(self._prefix), 0, -1)
        return [version.decode() for version in listed]

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        try:
            with open_client(self._address, text=False) as client:
                yield client
        except FAILURES as error:
            raise unavailable(self._address, error) from None


def _decompressed(compressed: bytes) -> bytes | None:
    """The text, of at most `MOST_TEXT` bytes; None if it is not one."""
    try:
        return zlib.decompressobj().decompress(compressed, MOST_TEXT)
    except zlib.error:
        return None
