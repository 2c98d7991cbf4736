"""Makes the whole sidecar known to this folder's tests."""

from e2e_process import serving
from e2e_stage import stage

__all__ = ["serving", "stage"]
