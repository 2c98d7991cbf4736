"""Makes real processes and the slow API known to this folder's tests."""

from e2e_process import serving, slow_api

__all__ = ["serving", "slow_api"]
