"""Fixtures of this directory: real processes and the slow API."""

from tests.support.processes import serving, slow_api

__all__ = ["serving", "slow_api"]
