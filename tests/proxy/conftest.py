"""Houses of this folder: one per module, in front of a recorder of its own."""

from collections.abc import Iterator

import pytest

from tests.support.proxy_stage import EVERYTHING, House, running


@pytest.fixture(scope="module")
def house(_valkey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A sidecar that forwards every path."""
    directory = tmp_path_factory.mktemp("house")
    with running(lambda: House(directory, _valkey, EVERYTHING)) as started:
        yield started
