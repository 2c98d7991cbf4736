"""Makes the stage and the slow API known to this folder's tests."""

from tests.support.processes import slow_api
from tests.support.stage import stage

__all__ = ["slow_api", "stage"]
