"""The plan file: read, checked, compiled, and swapped while calls go on."""

from sidecar.config.loading import load, parse
from sidecar.config.reload import PlanKeeper
from sidecar.config.schema import schema

__all__ = ["PlanKeeper", "load", "parse", "schema"]
