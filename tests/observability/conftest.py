"""Fixtures of this folder: a sidecar process of its own, and a whole sidecar in this process."""

from tests.support.processes import serving
from tests.support.stage import stage

__all__ = ["serving", "stage"]
