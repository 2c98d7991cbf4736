"""A stage for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.reconcile_stage import Stage, a_stage


@pytest.fixture
async def stage(valkey_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with a_stage(valkey_url, tmp_path) as one:
        yield one
