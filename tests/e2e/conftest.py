"""Fixtures of this directory: the stage and the slow API."""

from tests.support.processes import slow_api
from tests.support.stage import stage

__all__ = ["slow_api", "stage"]
