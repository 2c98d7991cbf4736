"""One sidecar per test module, with its own recorder as upstream."""

from collections.abc import Iterator

import pytest

from tests.support.proxy_stage import EVERYTHING, SidecarThread, running


@pytest.fixture(scope="module")
def sidecar(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarThread]:
    """A sidecar that forwards every path."""
    directory = tmp_path_factory.mktemp("sidecar")
    with running(lambda: SidecarThread(directory, _valkey, EVERYTHING)) as started:
        yield started
