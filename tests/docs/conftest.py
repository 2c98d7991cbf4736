"""Fixtures of this folder: a whole sidecar, in this process or in one of its own."""

from tests.support.processes import serving
from tests.support.stage import stage

__all__ = ["serving", "stage"]
