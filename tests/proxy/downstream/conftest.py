"""In-process tests of this directory run on uvloop, as the product does."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.support.stage import stage

__all__ = ["stage"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Hook of pytest-asyncio for the tests below this directory."""
    return {"uvloop": uvloop.new_event_loop}
