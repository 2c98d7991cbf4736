"""The product's loop; the contracts run the same connections on asyncio's. And its process."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.support.processes import serving, slow_api

__all__ = ["serving", "slow_api"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A hook of pytest-asyncio, asked for the tests below this folder."""
    return {"uvloop": uvloop.new_event_loop}
