"""Makes real processes and the slow API known to this folder's tests."""

from tests.support.processes import serving, slow_api

__all__ = ["serving", "slow_api"]
