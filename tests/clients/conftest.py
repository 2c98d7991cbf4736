"""In-process tests of this directory run on uvloop, as the product does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from tests.support.http.asgi_api import TEXT, Api, served
from tests.support.http.raw_ends import Ends
from tests.support.processes import serving
from tests.support.stage import Stage, StartStage, stage

__all__ = ["serving", "stage"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Hook of pytest-asyncio for the tests below this directory."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    """Raw connections on both sides; all are closed with the test."""
    made = Ends()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for all tests of this worker, which use separate names on it."""
    file = tmp_path_factory.mktemp("api") / "file.txt"
    file.write_bytes(TEXT)
    made = Api(file)
    with served(made.app) as (made.url, made.loop):
        yield made


@pytest.fixture
async def front(stage: StartStage, api: Api) -> Stage:
    """A sidecar in front of the API."""
    return await stage(upstream=api.url)


@pytest.fixture
def base(front: Stage) -> str:
    """The base URL for clients."""
    return f"http://127.0.0.1:{front.app.data_port.port}"
