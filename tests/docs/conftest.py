"""Makes the whole sidecar and its process known to this folder's tests."""

from tests.support.processes import serving
from tests.support.stage import stage

__all__ = ["serving", "stage"]
