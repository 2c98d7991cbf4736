"""A house for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.reconcile_stage import House, a_house


@pytest.fixture
async def house(valkey_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(valkey_url, tmp_path) as one:
        yield one
