"""Makes the stage and the slow API known to this folder's tests."""

from e2e_process import slow_api
from e2e_stage import stage

__all__ = ["slow_api", "stage"]
