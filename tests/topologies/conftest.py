"""The product's event loop and its process. The contracts use asyncio's loop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.support.processes import serving, slow_api

__all__ = ["serving", "slow_api"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A hook of pytest-asyncio, for the tests in this folder."""
    return {"uvloop": uvloop.new_event_loop}
