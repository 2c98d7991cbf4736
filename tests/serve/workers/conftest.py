"""Sidecars with several workers, which end with their test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.several_workers import Api, Several

Serve = Callable[..., Several]


@pytest.fixture
def api() -> Iterator[Api]:
    server = Api()
    yield server
    server.close()


@pytest.fixture
def serve(valkey_url: str, tmp_path: Path, api: Api) -> Iterator[Serve]:
    """`serve(workers=2, sinks="stdout")` starts a sidecar; call `ready()` to wait for it."""
    running: list[Several] = []

    def start(*, workers: int = 2, **flags: object) -> Several:
        given = {name.replace("_", "-"): value for name, value in flags.items()}
        running.append(Several(tmp_path, valkey_url, api, workers=workers, flags=given))
        return running[-1]

    yield start
    for several in running:
        several.kill()
