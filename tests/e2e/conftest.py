"""Makes the stage known to this folder's tests."""

from e2e_stage import stage

__all__ = ["stage"]
