"""Fixtures: the chart, loaded once."""

from collections.abc import Iterator
from pathlib import Path

import helm_python
import pytest

from tests.support.charts import CHART, chart_with_samples, shop_with_dependency
from tests.support.processes import serving, slow_api

__all__ = ["serving", "slow_api"]

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(scope="session")
def chart() -> Iterator[helm_python.Chart]:
    """The chart as it is."""
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def sampled_chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helm_python.Chart]:
    """The chart with sample dashboards and rules."""
    directory = tmp_path_factory.mktemp("chart")
    with helm_python.Chart.load(chart_with_samples(directory, SAMPLES)) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helm_python.Chart]:
    """A chart of an application, with this chart as its dependency."""
    directory = tmp_path_factory.mktemp("shop")
    with helm_python.Chart.load(shop_with_dependency(directory)) as loaded:
        yield loaded
